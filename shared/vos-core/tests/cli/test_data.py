from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vos_core.cli.main import main


def run(*arguments):
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


@pytest.fixture
def root(tmp_path):
    """A DAVIS tree with one clip of two frames."""
    root = tmp_path / "DAVIS"
    for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
        folder = root / kind / "480p" / "dog"
        folder.mkdir(parents=True)
        for i in range(2):
            if suffix == "jpg":
                Image.new("RGB", (24, 16), (i, 2, 3)).save(folder / f"{i:05d}.jpg")
            else:
                mask = Image.fromarray(np.eye(16, 24, dtype=np.uint8))
                mask.putpalette([0, 0, 0, 128, 0, 0])
                mask.save(folder / f"{i:05d}.png")
    (root / "ImageSets/2017").mkdir(parents=True)
    (root / "ImageSets/2017/val.txt").write_text("dog\n")
    return root


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name in ("check", "davis-480-880", "lvos-convert", "ytvos-480p", "synth"):
        assert name in result.stdout
        assert "Example:" in run(name, "--help").stdout


@pytest.mark.parametrize("layout", ["davis", "auto"])
def test_check_of_a_clean_set(root, layout):
    result = run("check", layout, root)
    assert result.exit_code == 0
    assert result.stdout == f"note: {root}/JPEGImages/480p: 1 clips, the released split has 30. " + (
        "Download the rest, or ignore this for a subset.\n"
    )
    assert "davis" in result.stderr


def test_check_lists_faults_and_exits_with_1(root):
    mask = root / "Annotations/480p/dog/00001.png"
    mask.write_bytes(mask.read_bytes()[:-20])
    assert run("check", "davis", root, "--fast").exit_code == 0
    result = run("check", "davis", root, "--json", "-n", 1)
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["errors"] == 1
    fault = next(p for p in report["problems"] if p["level"] == "error")
    assert fault["path"] == str(mask)
    assert fault["fix"]
    mask.unlink()
    result = run("check", "davis", root, "--fast")
    assert result.exit_code == 1
    assert "error: " in result.stdout
    assert "masks of frames 00001 are missing" in result.stdout


def test_check_options_and_wrong_use(root):
    assert "year" in run("check", "davis", root, "--set", "years=2016").stderr
    assert run("check", "davis", root, "--set", "years=2016").exit_code == 2
    assert run("check", "davis", root, "--set", "year").exit_code == 2
    assert run("check", "davies", root).exit_code == 2
    assert run("check", "davis", root / "gone").exit_code == 2
    (root / "ImageSets/2016").mkdir()
    (root / "ImageSets/2016/val.txt").write_text("dog\n")
    assert run("check", "davis", root, "--set", "year=2016").exit_code == 0
    result = run("check", "auto", root / "ImageSets")
    assert result.exit_code == 1
    assert "follows no known layout" in result.stderr


def test_conversions(root, tmp_path):
    out = tmp_path / "out"
    planned = run("davis-480-880", root, out, "--height", 8, "--width", 12, "--dry-run")
    assert (planned.stdout, out.exists()) == (f"{out}: 5 files to write, 0 were there\n", False)
    result = run("davis-480-880", root, out, "--height", 8, "--width", 12)
    assert result.exit_code == 0
    assert result.stdout == f"{out}: 5 files written, 0 were there\n"
    again = run("davis-480-880", root, out, "--height", 8, "--width", 12, "--json")
    assert json.loads(again.stdout) == {"output": str(out), "written": 0, "kept": 5}
    assert run("davis-480-880", root).exit_code == 2
    assert run("davis-480-880", tmp_path / "out/ImageSets", out).exit_code == 1

    split = tmp_path / "train"
    (split / "JPEGImages").mkdir(parents=True)
    (root / "JPEGImages/480p/dog").rename(split / "JPEGImages/dog")
    (root / "Annotations/480p").rename(split / "Annotations")
    result = run("ytvos-480p", split, tmp_path / "train_480p", "--size", 8, "--json")
    assert json.loads(result.stdout)["written"] == 4
    with Image.open(tmp_path / "train_480p/JPEGImages/dog/00000.jpg") as image:
        assert image.size == (12, 8)
    result = run("lvos-convert", split, "--json")
    assert json.loads(result.stdout) == {"output": "Annotations_convert", "written": 1, "kept": 1}
    assert (split / "Annotations_convert/dog/00000.png").is_file()
    assert run("lvos-convert", split, "--output", "Annotations").exit_code == 2
