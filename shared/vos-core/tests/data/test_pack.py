from __future__ import annotations

import hashlib
import shutil
import zipfile

import pytest

from vos_core.data.pack import SERVERS, pack
from vos_core.errors import LayoutError, UsageError


def names(archive):
    with zipfile.ZipFile(archive) as opened:
        assert opened.testzip() is None
        return opened.namelist()


def faults(report):
    return [problem.found for problem in report.problems if problem.level == "error"]


@pytest.fixture
def davis_results(davis):
    davis.masks("results/judo", dict.fromkeys([f"{i:05d}" for i in range(4)], (1, 2)))
    davis.masks("results/dog", dict.fromkeys([f"{i:05d}" for i in range(4)], (1,)))
    (davis / "results/run.json").write_text("{}")
    return davis


def test_davis_zip_is_flat_complete_and_deterministic(davis_results, tmp_path):
    tree = davis_results
    report = pack("davis", tree / "results", tmp_path / "a.zip", root=tree.root, split="val", workers=2)
    assert faults(report) == []
    assert (report.clips, report.masks, report.left_out) == (2, 8, 0)
    assert names(tmp_path / "a.zip") == [f"{clip}/{i:05d}.png" for clip in ("dog", "judo") for i in range(4)]
    shutil.copytree(tree / "results", tmp_path / "copy/Annotations/480p")
    pack("davis", tmp_path / "copy", tmp_path / "b.zip", root=tree.root, split="val")
    assert (
        hashlib.sha256((tmp_path / "a.zip").read_bytes()).digest() == hashlib.sha256((tmp_path / "b.zip").read_bytes()).digest()
    )


def test_every_fault_is_listed_and_nothing_written(davis_results, tmp_path):
    tree = davis_results
    (tree / "results/judo/00002.png").unlink()
    tree.masks("results/judo", {"00000": (1, 3)})
    tree.masks("results/judo", {"00001": (1,)}, size=(8, 8))
    tree.masks("results/judo", {"00003": (1,)}, mode="L")
    shutil.rmtree(tree / "results/dog")
    (tree / "results/extra").mkdir()
    report = pack("davis", tree / "results", tmp_path / "a.zip", root=tree.root, split="val")
    assert set(faults(report)) == {
        "masks of frames 00002 are missing",
        "ids 3 are not of this clip, which has 1, 2",
        "mask is 8x8, the frames are 24x16",
        "mask is not an 8-bit palette PNG (mode P)",
        "the clip is missing from the results",
    }
    assert report.archive is None
    assert not (tmp_path / "a.zip").exists()
    assert any("extra" in problem.found for problem in report.problems if problem.level == "note")
    (tree / "results/judo/00000.png").write_bytes(b"torn")
    assert any(
        "not a PNG" in text for text in faults(pack("davis", tree / "results", tmp_path / "a.zip", root=tree.root, split="val"))
    )


def test_youtube_sends_listed_frames_and_no_early_object(youtube, tmp_path):
    dense = [f"{i:05d}" for i in range(5, 21)]
    youtube.masks("results/aa", {name: (2,) if name < "00015" else (2, 7) for name in dense})
    report = pack("youtube-vos-2019", youtube / "results", tmp_path / "a.zip", root=youtube.root)
    assert faults(report) == []
    assert names(tmp_path / "a.zip") == [f"Annotations/aa/{i:05d}.png" for i in (5, 10, 15, 20)]
    assert report.left_out == 12
    youtube.masks("results/aa", {"00010": (2, 7)})
    report = pack("youtube-vos-2018", youtube / "results", tmp_path / "b.zip", root=youtube.root)
    assert faults(report) == ["ids 7 are drawn before they enter"]


def test_mose_lvos_and_vost(tree, tmp_path):
    tree.frames("mose/valid/JPEGImages/m", ("00000", "00001")).masks("mose/valid/Annotations/m", {"00000": (4,)})
    tree.masks("out1/m", {"00000": (4,), "00001": ()})
    for dataset in ("mose-v1", "mose-v2"):
        assert faults(pack(dataset, tree / "out1", tmp_path / f"{dataset}.zip", root=tree / "mose")) == []
        assert names(tmp_path / f"{dataset}.zip") == ["m/00000.png", "m/00001.png"]
    tree.frames("lvos/test/JPEGImages/abcdefgh", ("00000001", "00000006")).masks(
        "lvos/test/Annotations/abcdefgh", {"00000001": (1,)}
    )
    ranges = {"frame_range": {"start": "00000001", "end": "00000006", "frame_nums": "2"}}
    tree.json("lvos/test_meta.json", {"videos": {"abcdefgh": {"objects": {"1": ranges}}}})
    tree.masks("out2/abcdefgh", {"00000001": (1,), "00000006": (1,)})
    assert faults(pack("lvos-v2", tree / "out2", tmp_path / "l.zip", root=tree / "lvos")) == []
    assert names(tmp_path / "l.zip") == ["Annotations/abcdefgh/00000001.png", "Annotations/abcdefgh/00000006.png"]
    dense = ["frame00012", "frame00018", "frame00024"]
    tree.frames("vost/JPEGImages_10fps/c", dense).frames("vost/JPEGImages/c", dense[::2]).text("vost/ImageSets/test.txt", "c")
    tree.masks("vost/Annotations/c", {dense[0]: (1,)}).masks("out3/c", dict.fromkeys(dense, (1,)))
    report = pack("vost", tree / "out3", tmp_path / "v.zip", root=tree / "vost")
    assert names(tmp_path / "v.zip") == ["c/frame00012.png", "c/frame00024.png"]
    assert report.left_out == 1


def test_sav_objects(tree, tmp_path):
    tree.frames("sav/JPEGImages_24fps/s", [f"{i:05d}" for i in range(9)]).text("sav/sav_test.txt", "s")
    tree.masks("sav/Annotations_6fps/s/000", {"00000": (1,)}, mode="L")
    tree.masks("sav/Annotations_6fps/s/001", {"00004": (1,), "00008": (1,)}, mode="L")
    tree.masks("results/s/000", dict.fromkeys([f"{i:05d}" for i in range(9)], (255,)), mode="L")
    report = pack("sav", tree / "results", tmp_path / "a.zip", root=tree / "sav")
    assert faults(report) == ["object folder 001 is missing"]
    tree.masks("results/s/001", {"00004": (1,), "00008": (1, 2)}, mode="L")
    report = pack("sav", tree / "results", tmp_path / "a.zip", root=tree / "sav")
    assert faults(report) == ["mask holds values 1, 2"]
    tree.masks("results/s/001", {"00008": (1,)}, mode="L")
    pack("sav", tree / "results", tmp_path / "a.zip", root=tree / "sav")
    assert names(tmp_path / "a.zip") == [
        "s/000/00000.png",
        "s/000/00004.png",
        "s/000/00008.png",
        "s/001/00004.png",
        "s/001/00008.png",
    ]


def test_without_the_data_set_only_form_is_checked(davis_results, tmp_path):
    tree = davis_results
    (tree / "results/dog/00001.png").unlink()
    report = pack("davis", tree / "results", tmp_path / "a.zip")
    assert report.masks == 7
    assert [p.fix for p in report.problems] == ["Give --root to check them"]
    tree.masks("results/dog", {"00002": (1,)}, size=(8, 8))
    assert faults(pack("davis", tree / "results", tmp_path / "b.zip")) == ["mask is 8x8, the frames are 24x16"]


def test_wrong_use(davis_results, tmp_path):
    with pytest.raises(UsageError, match="no server is known"):
        pack("burst", tmp_path, tmp_path / "a.zip")
    with pytest.raises(LayoutError, match="does not exist"):
        pack("davis", tmp_path / "gone", tmp_path / "a.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="holds no clip folder"):
        pack("davis", tmp_path / "empty", tmp_path / "a.zip")


def test_a_failed_write_leaves_no_zip(davis_results, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(Exception, match="disk is full"):
        pack("davis", davis_results / "results", tmp_path / "z/a.zip", root=davis_results.root, split="val")
    assert list((tmp_path / "z").iterdir()) == []


def test_servers_name_known_layouts():
    from vos_core.data.layout import LAYOUTS

    assert {server.layout for server in SERVERS.values()} <= set(LAYOUTS)
