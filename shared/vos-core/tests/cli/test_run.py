from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vos_core.cli.main import main


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Two clips of six frames, the second with two objects."""
    for name, objects in (("a", 1), ("b", 2)):
        images, masks = tmp_path / "clips" / "JPEGImages" / name, tmp_path / "clips" / "Annotations" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        labels = np.zeros((40, 48), np.uint8)
        for index in range(objects):
            labels[5:20, 4 + 20 * index : 18 + 20 * index] = index + 1
        cv2.imwrite(str(masks / "00000.png"), labels)
        for index in range(6):
            cv2.imwrite(str(images / f"{index:05d}.jpg"), np.full((40, 48, 3), 90 + index, np.uint8))
    return tmp_path / "clips"


def vos(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_table_on_stdout_and_masks_on_disk(clips: Path, tmp_path: Path) -> None:
    found = vos("run", "--method", "copy", "--clips", clips, "--output", tmp_path / "out")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    assert lines[0].split()[:4] == ["clip", "status", "frames", "objects"]
    assert lines[1].split()[:5] == ["a", "done", "6", "1", "48x40"]
    assert lines[2].split()[:5] == ["b", "done", "6", "2", "48x40"]
    assert lines[3].startswith("2 of 2 clips done, 12 frames")
    assert "frame" in found.stderr, "progress goes to stderr"
    assert len(list((tmp_path / "out" / "b").glob("*.png"))) == 6


def test_json_is_the_whole_of_stdout(clips: Path, tmp_path: Path) -> None:
    found = vos("run", "-m", "flow", "--clips", clips, "-o", tmp_path / "out", "--json", "--set", "preset=fast", "--only", "b")
    record = json.loads(found.stdout)
    assert [clip["name"] for clip in record["clips"]] == ["b"]
    assert record["options"] == {"preset": "fast"}


def test_options_of_a_layout_follow_its_name_and_warnings_are_lines(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert vos("data", "synth", data, "--layout", "youtube-vos", "--clips", 1, "--frames", 6, "--size", "32x48").exit_code == 0
    shutil.rmtree(data / "valid_all_frames")
    named = ("--root", data, "--output", tmp_path / "out")
    program = "from vos_core.cli.main import main; main()"
    words = [sys.executable, "-c", program, "run", "-m", "copy", "--layout", "youtube-vos", *map(str, named)]
    warned = subprocess.run(words, capture_output=True, text=True, check=True).stderr
    assert "Warning: " in warned
    assert "--layout youtube-vos:frames=listed" in warned
    assert ".py:" not in warned, "no place in the code"
    meant = vos("run", "-m", "copy", "--layout", "youtube-vos:frames=listed", *named)
    assert meant.exit_code == 0, meant.output
    assert "Warning" not in meant.stderr
    unknown = vos("run", "-m", "copy", "--layout", "youtube-vos:colour=red", *named)
    assert "layout youtube-vos has no option 'colour'" in unknown.stderr


def test_config_file_with_assignments_on_top(clips: Path, tmp_path: Path) -> None:
    config = tmp_path / "flow.yaml"
    config.write_text("preset: fast\nconsistency: 0.5\n")
    options = ("--config", config, "--set", "consistency=0.25", "--json")
    found = vos("run", "-m", "flow", "--clips", clips, "-o", tmp_path / "out", *options)
    assert json.loads(found.stdout)["options"] == {"preset": "fast", "consistency": 0.25}


def test_one_video_with_a_mask(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 40))
    for index in range(5):
        writer.write(np.full((40, 48, 3), 50 * index, np.uint8))
    writer.release()
    found = vos("run", "-m", "copy", "--video", path, "--mask", clips / "Annotations" / "a" / "00000.png", "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert sorted(file.name for file in (tmp_path / "out" / "film").iterdir()) == [f"{index:05d}.png" for index in range(5)]


def test_failed_clips_are_named_and_exit_code_is_1(clips: Path, tmp_path: Path) -> None:
    frame = clips / "JPEGImages" / "a" / "00003.jpg"
    frame.write_bytes(frame.read_bytes()[:200])
    found = vos("run", "-m", "copy", "--clips", clips, "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert str(frame) in found.stderr
    assert "1 of 2 clips failed: a" in found.stderr
    assert "1 of 2 clips done" in found.stdout


def test_a_clip_without_frames_is_named_and_the_others_run(clips: Path, tmp_path: Path) -> None:
    (clips / "JPEGImages" / "hollow").mkdir()
    found = vos("run", "-m", "copy", "--clips", clips, "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "hollow" in found.stderr
    assert "2 of 2 clips done" in found.stdout


def test_clips_without_a_mask_are_skipped_unless_named(clips: Path, tmp_path: Path) -> None:
    (clips / "Annotations" / "a" / "00000.png").unlink()
    found = vos("run", "-m", "copy", "--clips", clips, "-o", tmp_path / "out")
    assert found.exit_code == 0, found.output
    assert "Skipped: clip 'a': it has no mask" in found.stderr
    assert "1 of 2 clips done, 1 skipped" in found.stdout
    assert json.loads((tmp_path / "out" / "run.json").read_text())["clips"][0]["status"] == "skipped"
    named = vos("run", "-m", "copy", "--clips", clips, "-o", tmp_path / "named", "--only", "a,b")
    assert named.exit_code == 1
    assert "Failed: clip 'a'" in named.stderr
    (clips / "Annotations" / "b" / "00000.png").unlink()
    none = vos("run", "-m", "copy", "--clips", clips, "-o", tmp_path / "none")
    assert none.exit_code == 2
    assert "none of the 2 clips has a mask" in none.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "nonsense", "--clips", "CLIPS"], "no method 'nonsense'"),
        (["-m", "copy"], "no clips were named"),
        (["-m", "copy", "--clips", "CLIPS", "--layout", "davis"], "--clips and --layout were given"),
        (["-m", "copy", "--clips", "CLIPS", "--split", "val"], "--split was given without --layout"),
        (["-m", "copy", "--clips", "CLIPS", "--mask", "m.png"], "--mask was given without --video"),
        (["-m", "copy", "--layout", "davis"], "--layout davis was given without --root"),
        (["-m", "copy", "--video", "CLIPS"], "was given without --mask"),
        (["-m", "copy", "--clips", "CLIPS", "--only", "a,zzz"], "no clips are called zzz"),
        (["-m", "copy", "--clips", "CLIPS", "--weights", "random.pth"], "takes no weights"),
        (["-m", "copy", "--clips", "CLIPS", "--set", "speed=3"], "unknown option 'speed'"),
        (["-m", "flow", "--clips", "CLIPS", "--set", "preset"], "not an assignment"),
        (["-m", "flow", "--clips", "CLIPS", "--set", "preset=best"], "option 'preset'"),
        (["-m", "copy", "--clips", "CLIPS", "--scales", "big"], "not a list of numbers"),
        (["-m", "copy", "--clips", "CLIPS", "--scales", "0"], "factors from 0.1 to 4"),
        (["-m", "copy", "--clips", "CLIPS", "--device", "cuda:99"], "device 'cuda:99' is not there"),
        (["-m", "copy", "--clips", "CLIPS", "--ops", "fpga"], "unknown ops backend"),
        (["-m", "copy", "--clips", "CLIPS", "--precision", "fp8"], "fp8"),
        (["-m", "copy", "--clips", "CLIPS", "--processes", "0"], "--processes"),
    ],
)
def test_wrong_use_is_exit_code_2(clips: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    found = vos("run", *(str(clips) if part == "CLIPS" else part for part in arguments), "-o", tmp_path / "out")
    assert found.exit_code == 2, found.output
    assert message in found.stderr
    assert not (tmp_path / "out" / "a").exists()


def test_an_empty_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    found = vos("run", "-m", "copy", "--clips", tmp_path / "nothing", "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "nothing" in found.stderr
    assert "Traceback" not in found.output


def test_other_settings_need_overwrite(clips: Path, tmp_path: Path) -> None:
    common = ("run", "-m", "flow", "--clips", clips, "-o", tmp_path / "out")
    assert vos(*common).exit_code == 0
    found = vos(*common, "--set", "preset=fast")
    assert found.exit_code == 2
    assert "--overwrite" in found.stderr
    assert vos(*common, "--set", "preset=fast", "--overwrite").exit_code == 0


def test_help_ends_with_an_example() -> None:
    found = vos("run", "--help")
    assert "Example: vos run" in found.stdout
    for option in (
        "--device",
        "--precision",
        "--threads",
        "--weights",
        "--variant",
        "--resume",
        "--overwrite",
        "--json",
        "--ops",
    ):
        assert option in found.stdout
