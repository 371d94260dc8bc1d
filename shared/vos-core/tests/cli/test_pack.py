from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from vos_core.cli.main import main
from vos_core.data.pack import SERVERS


def run(*arguments):
    return CliRunner().invoke(main, ["pack", *map(str, arguments)])


def save_mask(path, colour=(128, 0, 0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.eye(16, 24, dtype=np.uint8))
    mask.putpalette([0, 0, 0, *colour] + [9] * 762)  # 256 colours, else Pillow writes fewer bits
    mask.save(path)


@pytest.fixture
def mose(tmp_path):
    """A MOSE split with one clip of two frames, and results for it."""
    for i in range(2):
        frame = tmp_path / f"MOSE/valid/JPEGImages/m/{i:05d}.jpg"
        frame.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (24, 16)).save(frame)
        save_mask(tmp_path / f"results/m/{i:05d}.png")
    save_mask(tmp_path / "MOSE/valid/Annotations/m/00000.png")
    return tmp_path


def test_help_offers_every_server():
    result = run("--help")
    assert "Example:" in result.stdout
    for name in SERVERS:
        assert run(name, "--help").exit_code == 0
    rejected = run("burst", ".", "a.zip")
    assert rejected.exit_code == 2
    assert all(f"'{name}'" in rejected.stderr for name in SERVERS)


def test_good_results_are_packed(mose):
    result = run("mose-v1", mose / "results", mose / "a.zip", "--root", mose / "MOSE")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{mose / 'a.zip'}: 2 masks of 1 clips\n"
    with zipfile.ZipFile(mose / "a.zip") as archive:
        assert archive.namelist() == ["m/00000.png", "m/00001.png"]


def test_colours_do_not_count(mose):
    save_mask(mose / "results/m/00001.png", colour=(7, 8, 9))
    result = run("mose-v2", mose / "results", mose / "a.zip", "--root", mose / "MOSE")
    assert result.exit_code == 0, result.output
    with zipfile.ZipFile(mose / "a.zip") as archive:
        assert archive.read("m/00001.png") == (mose / "results/m/00001.png").read_bytes()
    assert "Servers read ids, not colours" in " ".join(run("--help").stdout.split())


def test_faults_are_listed_and_nothing_is_written(mose):
    (mose / "results/m/00001.png").unlink()
    result = run("mose-v2", mose / "results", mose / "a.zip", "--root", mose / "MOSE")
    assert result.exit_code == 1
    assert f"error: {mose / 'results/m'}: masks of frames 00001 are missing." in result.stdout
    assert "Nothing was written" in result.stderr
    assert not (mose / "a.zip").exists()
    report = json.loads(run("mose-v2", mose / "results", mose / "a.zip", "--root", mose / "MOSE", "--json", "-n", 1).stdout)
    assert report["archive"] is None
    assert report["problems"][0]["level"] == "error"


def test_without_root_a_note_says_what_was_not_checked(mose):
    result = run("mose-v1", mose / "results", mose / "a.zip")
    assert result.exit_code == 0
    assert "not checked whether all clips" in result.stderr


def test_wrong_use(mose):
    assert run("mose-v1", mose / "gone", mose / "a.zip").exit_code == 2
    result = run("mose-v1", mose / "results", mose / "a.zip", "--root", mose / "MOSE", "--split", "test")
    assert result.exit_code == 2
    assert "no split 'test'" in result.stderr
