"""`sam2-rcms infer`: the original's flags, results and resuming, and what each mistake says. A reduced network stands in."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from sam2_rcms.cli import COMMANDS, main
from vos_core.errors import VosError
from vos_core.io.masks import write_mask, write_object_masks

SMALL = ["--weights", "random", "--image_size", "64", "--device", "cpu"]


@pytest.fixture
def folders(tmp_path):
    """Two videos of 4 frames; `b` gets object 2 on its third frame."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for index in range(4):
            picture = rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "videos" / name / f"{index:05d}.jpg"), picture)
        labels = np.zeros((48, 64), np.uint8)
        labels[4:30, 4:30] = 1
        write_mask(tmp_path / "masks" / name / "00000.png", labels)
    labels[:, 40:] = 2
    write_mask(tmp_path / "masks" / "b" / "00002.png", labels)
    return tmp_path


@pytest.fixture
def infer(folders, small_network, monkeypatch):
    """Runs the command on the folders; returns exit code and output, errors included."""
    monkeypatch.setattr("sam2_rcms.weights.load_network", lambda path, size, *, seed=0: small_network)

    def run(*arguments, source=True, small=True):
        given = ["--base_video_dir", folders / "videos", "--input_mask_dir", folders / "masks"] if source else []
        result = CliRunner().invoke(main, ["infer", *map(str, [*given, *(SMALL if small else []), *arguments])])
        if isinstance(result.exception, VosError):
            return result.exception.exit_code, str(result.exception)
        return result.exit_code, result.output

    return run


def masks(folder):
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


def test_joint_by_default_and_late_objects_on_request(infer, folders):
    code, text = infer("--output_mask_dir", folders / "joint")
    assert code == 0, text
    found = masks(folders / "joint")
    assert sorted(found) == [f"{name}/{index:05d}.png" for name in "ab" for index in range(4)]
    assert all(2 not in mask for mask in found.values())
    code, _ = infer(
        "--output-mask-dir", folders / "late", "--track-object-appearing-later-in-video", "--video-list-file", _list(folders)
    )
    assert code == 0
    late = masks(folders / "late")
    assert {name.split("/")[0] for name in late} == {"b"}
    assert 2 in late["b/00002.png"]
    settings = json.loads((folders / "late" / "run.json").read_text())
    assert settings["variant"] == "b+_rcms"


def _list(folders):
    path = folders / "list.txt"
    path.write_text("b\n")
    return path


def test_resume_and_a_broken_frame(infer, folders):
    frame = folders / "videos" / "b" / "00002.jpg"
    whole = frame.read_bytes()
    frame.write_bytes(whole[:200])
    code, text = infer("-o", folders / "out")
    assert code == 1
    assert "00002.jpg" in text
    assert len(masks(folders / "out" / "a")) == 4
    stamp = (folders / "out" / "a" / "00001.png").stat().st_mtime_ns
    frame.write_bytes(whole)
    assert infer("-o", folders / "out")[0] == 0
    assert (folders / "out" / "a" / "00001.png").stat().st_mtime_ns == stamp, "finished videos are kept"
    assert len(masks(folders / "out" / "b")) == 4


def test_object_folders_in_and_out(infer, folders):
    overlap = np.zeros((48, 64), bool)
    overlap[10:40, 10:50] = True
    write_object_masks(folders / "objects" / "a", "00000", {1: overlap, 3: overlap})
    code, text = infer(
        "--base_video_dir", folders / "videos", "--input_mask_dir", folders / "objects", "--video_list_file", _only_a(folders),
        "--per_obj_png_file", "-o", folders / "out", source=False,
    )  # fmt: skip
    assert code == 0, text
    found = masks(folders / "out")
    assert sorted(found) == [f"a/{folder}/{index:05d}.png" for folder in ("001", "003") for index in range(4)]
    assert np.array_equal(found["a/001/00000.png"], found["a/003/00000.png"]), "overlapping masks both come out whole"
    assert set(np.unique(found["a/001/00000.png"])) == {0, 1}


def test_masks_of_the_other_form_say_which_flag_they_want(infer, folders):
    write_object_masks(folders / "objects" / "a", "00000", {1: np.ones((48, 64), bool)})
    given = ["--base_video_dir", folders / "videos", "--video_list_file", _only_a(folders), "-o", folders / "out"]
    code, text = infer(*given, "--input_mask_dir", folders / "objects", source=False)
    assert (code, "Add --per_obj_png_file" in text) == (1, True), text
    code, text = infer(*given, "--input_mask_dir", folders / "masks", "--per_obj_png_file", source=False)
    assert (code, "Leave out --per_obj_png_file" in text) == (1, True), text


def _only_a(folders):
    path = folders / "a.txt"
    path.write_text("a\na\n")  # named twice, it is followed once
    return path


def test_every_mask_and_its_strangers(infer, folders):
    code, text = infer("--use_all_masks", "-o", folders / "out")
    assert code == 2
    assert "objects [2] of video 'b'" in text
    assert "--track_object_appearing_later_in_video" in text
    assert infer("--use_all_masks", "--track_object_appearing_later_in_video", "-o", folders / "out")[0] == 0


def test_original_yaml_and_options_reach_the_method(infer, folders):
    path = folders / "sam2.1_hiera_t.yaml"
    path.write_text(
        "model:\n  _target_: x.SAM2Base\n  sigmoid_scale_for_mem_enc: 7.5\n  sigmoid_bias_for_mem_enc: -4.0\n"
        "  num_prev_frames_to_promote: 5\n  image_encoder:\n    trunk: {embed_dim: 112}\n"
    )
    code, text = infer(
        "--sam2_cfg", path, "--num_prev_frames_to_promote", "2.0", "--video_list_file", _list(folders), "-o", folders / "o"
    )
    assert code == 0, text
    run = json.loads((folders / "o" / "run.json").read_text())
    assert run["variant"] == "b+_rcms"
    assert run["options"]["num_prev_frames_to_promote"] == 2.0
    assert run["options"]["sigmoid_scale_for_mem_enc"] == 7.5
    assert infer("--sam2_cfg", "tiny", "--dtype", "bf16", "--video_list_file", _list(folders), "-o", folders / "p")[0] == 0
    assert json.loads((folders / "p" / "run.json").read_text())["variant"] == "tiny"


@pytest.mark.parametrize(
    ("arguments", "source", "code", "message"),
    [
        (["--sam2_cfg", "huge"], True, 2, "huge is no preset"),
        (["--sam2_cfg", "configs/sam2.1/sam2.1_hiera_b+.yaml"], True, 2, "name the preset: of sam2.1_hiera_b+.yaml b+_rcms"),
        (["--sam2_cfg", "tiny", "--variant", "l"], True, 2, "differ"),
        (["--video_list_file", "nowhere.txt"], True, 1, "nowhere.txt"),
        (["--input_mask_dir", "m"], False, 2, "without --base_video_dir"),
        (["--base_video_dir", "v"], False, 2, "without --input_mask_dir"),
        (["--base_video_dir", "v", "--input_mask_dir", "m"], False, 1, "v does not exist"),
        (["--video", "nothing.mp4", "--mask", "m.png"], False, 1, "nothing.mp4 does not exist"),
        (["--set", "image_size=100"], True, 2, "multiple of 32"),
        (["--set", "low_quality=1"], True, 2, "low_quality_threshold"),
        (["--set", "max_cond_frames_in_attn=1"], True, 2, "at least 2"),
        (["--clips", "c"], True, 2, "together with --clips"),
        (["--no-such-option"], True, 2, "no-such-option"),
    ],
)
def test_mistakes_are_named(infer, folders, arguments, source, code, message):
    found, text = infer("-o", folders / "out", *arguments, source=source)
    assert (found, message in text) == (code, True), text


def test_every_command_has_help():
    for name in COMMANDS:
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, name
        assert "Example" in result.output or name != "infer"
