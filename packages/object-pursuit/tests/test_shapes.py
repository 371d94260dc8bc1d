"""Drawn objects: the same from the same seed, as the description says, and on disk in the iThor layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from object_pursuit.cli import main
from object_pursuit.data import shapes
from object_pursuit.data.images import ObjectFolder
from object_pursuit.data.objects import open_objects
from object_pursuit.data.shapes import ShapeObject, draw_image, held_object


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


def test_drawing_is_a_function_of_seed_object_and_index():
    rgb, mask = draw_image(3, 1, seed=5)
    again = draw_image(3, 1, seed=5)
    assert (rgb == again[0]).all()
    assert (mask == again[1]).all()
    for other in (
        draw_image(3, 2, seed=5),
        draw_image(4, 1, seed=5),
        draw_image(3, 1, seed=6),
        draw_image(3, 1, seed=5, part="heldout"),
    ):
        assert (rgb != other[0]).any()
    assert rgb.dtype == np.uint8
    assert rgb.shape == (64, 64, 3)
    assert draw_image(3, 1, size=32)[1].shape == (32, 32)


def test_objects_are_what_their_number_says():
    assert [ShapeObject.of(i).shape for i in range(6)] == ["disk", "square", "ring", "cross", "triangle", "disk"]
    assert ShapeObject.of(2).hue == pytest.approx(0.763932)
    stripes = [ShapeObject.of(i, seed=s).striped for i in range(40) for s in range(5)]
    assert 0.4 < np.mean(stripes) < 0.6
    assert not ShapeObject.of(0).far_from(ShapeObject.of(8))  # hues 0 and 0.056
    assert ShapeObject.of(0).far_from(ShapeObject.of(1))


def test_the_target_has_its_colour_and_lies_on_top(monkeypatch):
    painted = []
    plain = shapes._paint

    def spy(canvas, shape, rng):
        inside = plain(canvas, shape, rng)
        painted.append((shape, inside))
        return inside

    monkeypatch.setattr(shapes, "_paint", spy)
    for index in range(20):
        painted.clear()
        rgb, mask = draw_image(1, index)
        assert 2 <= len(painted) <= 3
        assert painted[-1][0].object_id == 1
        assert (painted[-1][1] == mask).all()
        assert all(shape.far_from(painted[-1][0]) for shape, _ in painted[:-1])
        assert 0.03 < mask.mean() < 0.35
        inside = rgb[mask].astype(float).mean(0)
        assert inside.argmax() == 1, "hue 0.38 is green"


def test_held_objects_equal_the_files(tmp_path, run):
    done = run(
        "synth-data", tmp_path / "set", "--pretrain", 1, "--stream", 2, "--images", 2, "--heldout", 1, "--seed", 3, "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["folders"][:3] == ["pretrain/obj_000", "stream/obj_001", "stream/obj_002"]
    found = open_objects("iThor", tmp_path / "set" / "stream")
    assert [entry.name for entry in found] == ["obj_001", "obj_002"]
    held = held_object(2, 2, seed=3)
    read = ObjectFolder(found[1], size=(64, 64)).read([0, 1], draw=0)
    assert (read.images == held.samples.images).all()
    assert (read.masks == held.samples.masks).all()
    assert len(open_objects("custom", tmp_path / "set" / "heldout")) == 3


def test_a_rerun_resumes_and_other_settings_are_refused(tmp_path, run):
    args = ("--pretrain", 1, "--stream", 1, "--images", 2, "--heldout", 0)
    assert run("synth-data", tmp_path / "set", *args).exit_code == 0
    files = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.png")}
    assert len(files) == 8
    lost, kept = sorted(files)[:2]
    lost.unlink()
    kept.touch()
    before = kept.stat().st_mtime_ns
    assert run("synth-data", tmp_path / "set", *args).exit_code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.png")} == files
    assert kept.stat().st_mtime_ns == before or kept.parent.name == lost.parent.name
    other = run("synth-data", tmp_path / "set", *args, "--seed", 1)
    assert other.exit_code == 2
    assert "other settings (seed)" in other.output + other.stderr
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "is not empty" in run("synth-data", tmp_path / "full").stderr
    assert run("synth-data", tmp_path / "none", "--pretrain", 0, "--stream", 0).exit_code == 2
    assert not (tmp_path / "none").exists()
