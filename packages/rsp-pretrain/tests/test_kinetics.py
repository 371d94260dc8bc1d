"""Kinetics-400 from a local server to labels: every step, stopped, repeated and rehearsed."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from rsp_pretrain.cli import main
from rsp_pretrain.data.sources import find_videos
from rsp_pretrain.kinetics.arrange import arrange
from rsp_pretrain.kinetics.check import check
from rsp_pretrain.kinetics.download import download
from rsp_pretrain.kinetics.extract import extract
from rsp_pretrain.kinetics.frames import extract_frames
from rsp_pretrain.kinetics.labels import make_labels
from rsp_pretrain.kinetics.rescale import rescale, rescaled_size
from vos_core.errors import LayoutError, OutputError, UsageError, WeightsError

av = pytest.importorskip("av")
VIDEOS = {"abseiling": ["aaaaaaaaaaa", "bbbbbbbbbbb"], "playing chess": ["ccccccccccc"], "zumba": ["ddddddddddd"]}


def write_video(path: Path, frames: int = 6, size: tuple[int, int] = (64, 96)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            for packet in stream.encode(av.VideoFrame(size[1], size[0], "yuv420p")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)


class Handler(SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `kinetics/400` as a server would have it: two archives, replacements, table, list."""
    root = tmp_path_factory.mktemp("server")
    base = root / "kinetics" / "400"
    rows = ["label,youtube_id,time_start,time_end,split,is_cc"]
    members = []
    for label, names in VIDEOS.items():
        for start, name in enumerate(names):
            rows.append(f"{label},{name},{start},{start + 10},train,0")
            path = root / f"{name}_{start:06d}_{start + 10:06d}.mp4"
            write_video(path)
            members.append(path)
    write_video(root / "replaced.mp4")
    write_video(root / "stranger_000000_000010.mp4")
    (base / "annotations").mkdir(parents=True)
    (base / "annotations" / "train.csv").write_text("\n".join(rows) + "\n")
    (base / "train").mkdir()
    shares = {"part_0": members[:2], "part_1": [*members[2:], root / "stranger_000000_000010.mp4"]}
    for name, paths in shares.items():
        with tarfile.open(base / "train" / f"{name}.tar.gz", "w:gz") as tar:
            for path in paths:
                tar.add(path, arcname=f"./{path.name}")
            evil = tarfile.TarInfo("../../outside.mp4")
            evil.size = 3
            tar.addfile(evil, io.BytesIO(b"bad"))
            tar.addfile(tarfile.TarInfo("notes.txt"))
    with tarfile.open(base / "replacement_for_corrupted_k400.tgz", "w:gz") as tar:
        tar.add(root / "replaced.mp4", arcname="replacement_for_corrupted_k400/replaced.mp4")
    addresses = [f"https://s3.amazonaws.com/kinetics/400/train/{name}.tar.gz" for name in shares]
    (base / "train" / "k400_train_path.txt").write_text("\n".join(addresses) + "\n")
    return root


@pytest.fixture
def source(served: Path) -> Iterator[str]:
    Handler.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/kinetics/400"
    server.shutdown()
    server.server_close()


def test_every_step_from_download_to_labels(tmp_path: Path, source: str) -> None:
    root = tmp_path / "k400"
    rehearsed = download(root, source=source, dry_run=True)
    assert len(rehearsed.planned) == 4
    assert not root.exists()
    done = download(root, source=source)
    assert (done.written, done.kept, done.failed) == (4, 0, [])
    Handler.requests.clear()
    assert (download(root, source=source).kept, Handler.requests) == (4, [])

    assert len(extract(root, dry_run=True).planned) == 3
    assert not (root / "extracted").exists()
    done = extract(root, delete=True)
    assert (done.written, done.failed) == (3, [])
    assert not list((root / "k400_targz").rglob("*gz"))
    assert not (tmp_path / "outside.mp4").exists()
    assert (root / "extracted" / "part_0" / "outside.mp4").read_bytes() == b"bad"  # flattened, never outside
    assert extract(root).kept == 3

    rehearsed = arrange(root, dry_run=True)
    assert len(rehearsed.planned) == 5
    assert not (root / "train").exists()
    done = arrange(root)
    assert (done.written, done.failed) == (5, [])
    assert sorted(done.notes["unknown"]) == ["outside.mp4", "outside.mp4", "stranger_000000_000010.mp4"]
    assert sorted(path.name for path in (root / "train").iterdir()) == [
        "abseiling", "playing_chess", "replacement_for_corrupted_k400", "zumba",
    ]  # fmt: skip
    again = arrange(root)
    assert (again.written, again.kept, again.failed, again.notes["classes"]) == (0, 5, [], 4)
    assert ("train2 has no video" in problems(root), "label list" in problems(root)) == (True, True)
    assert extract(root).written == 0  # what was moved on is not unpacked again

    assert len(rescale(root, begin=0, end=2, dry_run=True).planned) == 3
    leftover = root / "train2" / "abseiling" / ".aaaaaaaaaaa_000000_000010.killed.mp4"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"what a killed process left")
    assert rescale(root, begin=0, end=2, short=32, preset="ultrafast").written == 3
    assert not leftover.exists()
    done = rescale(root, short=32, preset="ultrafast")
    assert (done.written, done.kept, done.failed) == (2, 3, [])
    with av.open(str(root / "train2" / "zumba" / "ddddddddddd_000000_000010.mp4")) as video:
        pictures = list(video.decode(video=0))
        assert (len(pictures), pictures[0].height, pictures[0].width) == (6, 32, 48)
        assert [round(picture.time, 3) for picture in pictures] == [0, 0.1, 0.2, 0.3, 0.4, 0.5]

    assert len(make_labels(root, dry_run=True).planned) == 5
    assert not (root / "labels").exists()
    done = make_labels(root)
    entries = pickle.loads((root / "labels" / "label_full_1.0.pickle").read_bytes())
    assert entries == [
        (0, "train2/abseiling/aaaaaaaaaaa_000000_000010.mp4"),
        (0, "train2/abseiling/bbbbbbbbbbb_000001_000011.mp4"),
        (1, "train2/playing_chess/ccccccccccc_000000_000010.mp4"),
        (2, "train2/replacement_for_corrupted_k400/replaced.mp4"),
        (3, "train2/zumba/ddddddddddd_000000_000010.mp4"),
    ]
    assert find_videos(root) == tuple(root / name for _, name in entries)
    state = check(root, decode=2)
    assert (state.counts["archives listed"], state.counts["archives extracted"]) == (2, 2)
    assert state.counts["labels"] == 5
    assert state.counts["decoded"] == 2
    assert [found for found, _ in state.problems] == [
        "3 extracted videos are not arranged by class", "train has 4 class folders, a whole copy 401",
    ]  # fmt: skip


def problems(root: Path) -> str:
    return " ".join(found for found, _ in check(root).problems)


def test_check_names_every_file_of_the_download_that_is_missing(tmp_path: Path, source: str) -> None:
    download(tmp_path, source=source)
    assert "missing" not in problems(tmp_path)
    for path in ("k400_targz/replacement_for_corrupted_k400.tgz", "annotations/train.csv"):
        (tmp_path / path).unlink()
        assert f"{Path(path).name} " in problems(tmp_path)
    extract(tmp_path)
    assert "archives replacement_for_corrupted_k400.tgz are missing" in problems(tmp_path)
    download(tmp_path, source=source)
    assert "archives replacement_for_corrupted_k400.tgz are not extracted" in problems(tmp_path)


def test_check_names_videos_that_came_after_the_label_list(tmp_path: Path) -> None:
    write_video(tmp_path / "train2" / "a" / "old.mp4")
    (tmp_path / "train2" / "a" / "torn.mp4").write_bytes(b"x")
    make_labels(tmp_path)
    assert "never decoded" not in problems(tmp_path)  # the torn one was tried
    write_video(tmp_path / "train2" / "b" / "new.mp4")
    assert f"{tmp_path / 'train2' / 'b' / 'new.mp4'}: never decoded" in problems(tmp_path)


def test_a_list_of_which_nothing_is_there_is_refused(tmp_path: Path) -> None:
    listed = tmp_path / "videos.txt"
    listed.write_text("a.mp4\nb.mp4\n")
    with pytest.raises(LayoutError, match="none of the 2 videos"):
        find_videos(listed)
    write_video(tmp_path / "b.mp4")
    assert len(find_videos(listed)) == 2  # a gap is named when it is read
    kinetics = tmp_path / "k400"
    write_video(kinetics / "train2" / "a" / "v.mp4")
    make_labels(kinetics)
    (kinetics / "train2" / "a" / "v.mp4").unlink()
    with pytest.raises(LayoutError, match="none of the 1 videos"):
        find_videos(kinetics)


def test_a_full_disk_stops_a_download_with_its_own_advice(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import vos_core.weights.download as fetching

    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(OutputError, match=r"10 are free.*another --datadir") as stopped:
        download(tmp_path, source=source)
    assert "VOS_CACHE" not in str(stopped.value)


def test_a_file_that_fails_does_not_stop_the_others(tmp_path: Path, source: str, served: Path) -> None:
    whole = (served / "kinetics" / "400" / "train" / "part_1.tar.gz").read_bytes()
    assert download(tmp_path, source=source, begin=1, end=2).written == 3
    assert (tmp_path / "k400_targz" / "train" / "part_1.tar.gz").read_bytes() == whole
    assert not (tmp_path / "k400_targz" / "train" / "part_0.tar.gz").exists()
    (served / "kinetics" / "400" / "train" / "part_0.tar.gz").rename(served / "hidden")
    try:
        done = download(tmp_path, source=source)
    finally:
        (served / "hidden").rename(served / "kinetics" / "400" / "train" / "part_0.tar.gz")
    assert [name.rsplit("/", 1)[-1] for name, _ in done.failed] == ["part_0.tar.gz"]
    assert "404" in done.failed[0][1]
    assert download(tmp_path, source=source).written == 1


def test_a_source_that_is_none(tmp_path: Path, source: str) -> None:
    with pytest.raises(WeightsError, match="404"):
        download(tmp_path, source=f"{source}/elsewhere")


def test_a_damaged_archive_is_named_and_others_go_on(tmp_path: Path, source: str) -> None:
    download(tmp_path, source=source)
    path = tmp_path / "k400_targz" / "train" / "part_0.tar.gz"
    path.write_bytes(path.read_bytes()[:-1500])
    done = extract(tmp_path)
    assert done.written == 2
    assert "part_0.tar.gz is damaged" in done.failed[0][1]
    assert "data download" in done.failed[0][1]
    path.unlink()
    download(tmp_path, source=source)
    assert (extract(tmp_path).written, extract(tmp_path).kept) == (1, 3)


def test_labels_leave_out_what_does_not_decode_and_remember_the_rest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_video(tmp_path / "train2" / name / "whole.mp4")
    write_video(tmp_path / "train2" / "b" / "short.mp4", frames=1)
    (tmp_path / "train2" / "b" / "torn.mp4").write_bytes((tmp_path / "train2" / "b" / "whole.mp4").read_bytes()[:400])
    done = make_labels(tmp_path, processes=2)
    assert done.notes["entries"] == 2
    assert [name for name, _ in done.failed] == ["train2/b/short.mp4", "train2/b/torn.mp4"]
    journal = tmp_path / "labels" / "checked.jsonl"
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join(lines[:2]) + '\n{"path": "train2/')  # a kill in the middle of a line
    assert len(make_labels(tmp_path, dry_run=True).planned) == 2
    assert make_labels(tmp_path).written == 2
    assert make_labels(tmp_path).written == 0
    write_video(tmp_path / "train2" / "b" / "torn.mp4", frames=3)  # a changed file is decoded again
    done = make_labels(tmp_path, decode="ends")
    assert (done.written, done.notes["entries"]) == (1, 3)
    assert len(make_labels(tmp_path, dry_run=True).planned) == 1  # `ends` is not enough for `full`


def test_frames_of_any_videos(tmp_path: Path) -> None:
    write_video(tmp_path / "in" / "deep" / "a.mp4", frames=4)
    write_video(tmp_path / "in" / "b.avi")
    (tmp_path / "in" / "bad.mp4").write_bytes(b"x")
    out = tmp_path / "out"
    assert len(extract_frames(tmp_path / "in", out, dry_run=True).planned) == 3
    assert not out.exists()
    done = extract_frames(tmp_path / "in", out, short=32)
    assert (done.written, done.notes["frames"], len(done.failed)) == (2, 10, 1)
    assert [path.name for path in sorted((out / "deep" / "a").iterdir())] == [f"{index:05d}.jpg" for index in range(4)]
    assert extract_frames(tmp_path / "in", out).kept == 2
    write_video(tmp_path / "in" / "b.mp4")
    with pytest.raises(UsageError, match="one name"):
        extract_frames(tmp_path / "in", out)


def test_a_full_disk_stops_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import vos_core.io.atomic

    for name in ("a", "b"):
        write_video(tmp_path / "train" / name / "v.mp4")

    def full(*arguments: Any, **named: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vos_core.io.atomic.tempfile, "mkstemp", full)
    with pytest.raises(OutputError, match="disk is full"):
        rescale(tmp_path)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import rsp_pretrain.kinetics.labels as labels

    def interrupt(trial: Any) -> int:
        raise KeyboardInterrupt

    write_video(tmp_path / "train2" / "a" / "v.mp4")
    monkeypatch.setattr(labels, "_try", interrupt)
    stopped = CliRunner().invoke(main, ["data", "labels", "--datadir", str(tmp_path)])
    assert stopped.exit_code == 130
    assert "same command again" in stopped.output


def test_a_killed_step_goes_on_and_leaves_no_half_video(tmp_path: Path) -> None:
    for index in range(4):
        write_video(tmp_path / "train" / "a" / f"{index}.mp4", frames=60, size=(240, 320))
    command = [sys.executable, "-m", "rsp_pretrain", "data", "rescale", "--datadir", str(tmp_path), "--preset", "veryslow"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder, end = tmp_path / "train2" / "a", time.monotonic() + 60
    while not list(folder.glob("[0-9]*.mp4")) and time.monotonic() < end:
        time.sleep(0.01)
    process.kill()
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("[0-9]*.mp4")}
    assert finished
    done = rescale(tmp_path, preset="ultrafast")
    assert done.kept == len(finished)
    assert done.written == 4 - len(finished)
    assert sorted(path.name for path in folder.iterdir()) == [f"{index}.mp4" for index in range(4)]
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in finished.items())
    assert make_labels(tmp_path).notes["entries"] == 4


def test_davis_is_fetched_and_unpacked_whole(tmp_path: Path, served: Path, source: str) -> None:
    files = {"DAVIS/ImageSets/2017/val.txt": "a", "DAVIS/JPEGImages/480p/a/00000.jpg": "b"}
    for name, members in (("davis.zip", files), ("evil.zip", {"DAVIS/../../x": "c"}), ("other.zip", {"DAVIS/readme": "d"})):
        with zipfile.ZipFile(served / name, "w") as packed:
            for member, text in members.items():
                packed.writestr(member, text)
    base, run = source.removesuffix("/kinetics/400"), CliRunner().invoke
    command = ["data", "davis-download", "--data_root", str(tmp_path), "--source"]
    assert "davis.zip ->" in run(main, [*command, f"{base}/davis.zip", "--dry-run"]).output
    assert list(tmp_path.iterdir()) == []
    for name, message in (("evil.zip", "holds DAVIS/../../x"), ("other.zip", "not DAVIS")):
        refused = run(main, [*command, f"{base}/{name}"])
        assert message in refused.output
        assert not (tmp_path / "DAVIS").exists()
        (tmp_path / "DAVIS-2017-trainval-480p.zip").unlink()
    done = run(main, [*command, f"{base}/davis.zip", "--json"])
    assert json.loads(done.stdout)["written"] == 2, done.output
    assert (tmp_path / "DAVIS" / "ImageSets" / "2017" / "val.txt").read_text() == "a"
    assert "is there" in run(main, [*command, f"{base}/davis.zip"]).output


def test_missing_steps_say_which_comes_before(tmp_path: Path) -> None:
    for step, message in (
        (extract, "data download"),
        (rescale, "data arrange"),
        (make_labels, "data rescale"),
        (arrange, "data download"),
    ):
        with pytest.raises(LayoutError, match=message):
            step(tmp_path)
    with pytest.raises(LayoutError, match="nothing of Kinetics"):
        check(tmp_path)


def test_sizes() -> None:
    assert rescaled_size(480, 270) == (454, 256)
    assert rescaled_size(300, 300) == (256, 256)


def test_commands(tmp_path: Path, source: str) -> None:
    run = CliRunner().invoke
    root = ["--datadir", str(tmp_path)]
    plan = run(main, ["data", "download", *root, "--source", source, "--dry-run"])
    assert plan.exit_code == 0, plan.output
    assert "4 file(s) to do" in plan.output
    for arguments in (["download", "--source", source], ["extract"], ["arrange", "--mode", "link"], ["rescale", "--short", "32"]):
        done = run(main, ["data", arguments[0], *root, *arguments[1:]])
        assert done.exit_code == 0, done.output
    labels = run(main, ["data", "labels", *root, "--json"])
    assert json.loads(labels.stdout)["entries"] == 5
    state = run(main, ["data", "check", *root, "--json"])
    assert (state.exit_code, json.loads(state.stdout)["counts"]["train2"]) == (1, 5)
    state = run(main, ["data", "check", *root, "--decode", "9", "--dry-run", "--json"])
    counts = json.loads(state.stdout)["counts"]
    assert counts["to decode"] == 5
    assert "decoded" not in counts
    frames = run(main, ["data", "frames", str(tmp_path), str(tmp_path / "frames"), "--json"])
    assert json.loads(frames.stdout)["written"] == 5
    wrong = run(main, ["data", "rescale", *root, "--short", "33"])
    assert wrong.exit_code == 2
    assert "even" in wrong.output
    (tmp_path / "train2" / "zumba" / "torn.mp4").write_bytes(b"x")
    torn = run(main, ["data", "labels", *root])
    assert torn.exit_code == 1
    assert "torn.mp4" in torn.stderr
