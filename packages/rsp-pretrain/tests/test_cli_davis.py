"""`propagate` and `davis` through click's runner: results, resuming, error messages."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rsp_pretrain import METHOD
from rsp_pretrain.cli import COMMANDS, main
from rsp_pretrain.cli.options import variant_of
from rsp_pretrain.model import Encoder
from rsp_pretrain.model.vit import initialise
from vos_core.cli.main import main as vos_main
from vos_core.contract import get_method
from vos_core.errors import UsageError
from vos_core.io.masks import read_mask, write_mask

SMALL = ["--scale", "64,96", "--n_last_frames", "2", "--device", "cpu"]


@pytest.fixture
def run():
    return lambda *args, command=main: CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    encoder = Encoder(patch=16, dim=64, depth=1, heads=1, image_size=64)
    initialise(encoder)
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": encoder.state_dict()}, path)
    return path


@pytest.fixture
def davis(tmp_path):
    """DAVIS of two sequences of four frames; a square moves; numbers do not begin at 0."""
    root = tmp_path / "DAVIS"
    for name in ("bear", "cat"):
        folders = [root / kind / "480p" / name for kind in ("JPEGImages", "Annotations")]
        for folder in folders:
            folder.mkdir(parents=True)
        for t in range(4):
            picture, labels = np.full((96, 160, 3), 40, np.uint8), np.zeros((96, 160), np.uint8)
            picture[20:70, 10 + 8 * t : 60 + 8 * t], labels[20:70, 10 + 8 * t : 60 + 8 * t] = (200, 30, 90), 1
            picture[20:70, 100:140], labels[20:70, 100:140] = (10, 220, 40), 2
            cv2.imwrite(str(folders[0] / f"{t + 5:05d}.jpg"), picture)
            write_mask(folders[1] / f"{t + 5:05d}.png", labels)
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("bear\ncat\n")
    return root


def test_one_command_from_davis_to_its_score(run, davis, checkpoint, tmp_path):
    words = ["davis", "--davis_path", davis, "--finetune", checkpoint, "--output_dir", tmp_path / "out", *SMALL, "--json"]
    words += ["--height", "64", "--width", "112", "--size_mask_neighborhood", "2", "--topk", "5"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["scores"]
    assert 0.3 < scores["J&F-Mean"] < 1
    masks = tmp_path / "out" / "masks"
    assert sorted(path.name for path in (masks / "bear").iterdir()) == [f"{t:05d}.png" for t in range(5, 9)]
    found = read_mask(masks / "bear" / "00005.png")
    given = read_mask(tmp_path / "out" / "DAVIS_64_112" / "Annotations" / "480p" / "bear" / "00005.png")
    np.testing.assert_array_equal(found.labels if hasattr(found, "labels") else found, getattr(given, "labels", given))
    record = json.loads((masks / "run.json").read_text())
    assert record["variant"] == "vit"
    assert record["options"]["topk"] == 5
    options = record["settings"]["options"]
    assert options.keys() == METHOD.options.keys()
    assert (options["topk"], options["temperature"], options["scale"], options["candidates"]) == (5, 0.1, [64, 96], 32)
    assert (record["settings"]["precision"], record["settings"]["seed"]) == ("fp32", 0)
    # Sequences made alike are prepared alike, here and anywhere.
    assert len({clip["input_sha256"] for clip in record["clips"]}) == 1
    assert record["weights"]["sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    stamps = {path: path.stat().st_mtime_ns for path in masks.rglob("*.png")}
    again = run(*words)
    assert again.exit_code == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in masks.rglob("*.png")}
    assert json.loads(again.stdout)["scores"] == scores


def test_steps_one_by_one(run, davis, checkpoint, tmp_path):
    out = ["--output", tmp_path / "out", "--data_path", tmp_path / "prepared"]
    sizes = ["--height", "64", "--width", "112"]
    assert run("davis", "--steps", "prepare", "--davis_path", davis, *out, *sizes).exit_code == 0
    assert not (tmp_path / "out").exists()
    done = run("davis", "--steps", "propagate", *out, "--weights", checkpoint, "--only", "cat", *SMALL)
    assert done.exit_code == 0, done.output
    assert [path.name for path in (tmp_path / "out" / "masks").iterdir() if path.is_dir()] == ["cat"]
    done = run("davis", "--steps", "score", *out, "--only", "cat")
    assert done.exit_code == 0, done.output
    assert "J&F" in done.output


def test_propagate_a_folder_with_untrained_weights(run, davis, tmp_path):
    frames = davis / "JPEGImages" / "480p" / "bear"
    mask = davis / "Annotations" / "480p" / "bear" / "00005.png"
    words = ["--video", frames, "--mask", mask, "--weights", "random"]
    done = run("propagate", *words, "--output", tmp_path / "out", *SMALL)
    assert done.exit_code == 0, done.output
    assert "Untrained weights" in done.output
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4
    options = ["--set", "scale=[64,96]", "--set", "n_last_frames=2", "--device", "cpu"]
    other = run("run", "--method", "rsp-pretrain", *words, "--output", tmp_path / "vos", *options, command=vos_main)
    assert other.exit_code == 0, other.output
    for path in (tmp_path / "out").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "vos" / path.relative_to(tmp_path / "out")).read_bytes()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--weights", "absent.pth"], "absent.pth"),
        (["--weights", "random", "--scale", "1,2,3"], "scale"),
        (["--weights", "random", "--model", "vit_huge"], "vit_huge"),
        (["--weights", "random", "--patch_size", "8"], "--patch_size"),
        (["--weights", "random", "--finetune", "x.pth"], "--finetune"),
        (["--weights", "random", "--model", "vit_small", "--variant", "rsp_vit_base_patch16"], "--variant"),
        (["--weights", "random", "--set", "nlast=3"], "n_last_frames"),
        (["--weights", "random", "--temperature", "0"], "temperature"),
    ],
)
def test_wrong_use_exits_with_a_sentence(run, davis, tmp_path, words, named):
    frames, mask = davis / "JPEGImages" / "480p" / "bear", davis / "Annotations" / "480p" / "bear" / "00005.png"
    failed = run("propagate", "--video", frames, "--mask", mask, "--output", tmp_path / "out", "--device", "cpu", *words)
    assert failed.exit_code in (1, 2)
    assert named in failed.output
    assert "Traceback" not in failed.output
    assert not list(tmp_path.glob("out/**/*.png"))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--steps", "prepare"], "--davis_path"),
        (["--steps", "cook"], "prepare, propagate, score"),
        (["--data_path", "nowhere"], "nowhere"),
        (["--only", "dog"], "dog"),
        (["--only", "bear,dog"], "dog"),
        (["--steps", "score"], "--davis_path"),
        (["--object-masks"], "label maps"),
    ],
)
def test_wrong_use_of_davis_exits_with_a_sentence(run, davis, tmp_path, words, named):
    given = ["--data_path", davis] if "--only" in words else []
    failed = run("davis", *given, *words, "--output", tmp_path / "out", "--weights", "random", *SMALL)
    assert failed.exit_code in (1, 2)
    assert named in failed.output
    assert "Traceback" not in failed.output
    assert not (tmp_path / "out").exists()


def test_a_score_without_masks_says_which_step_is_missing(run, davis, tmp_path):
    (tmp_path / "out" / "masks" / "cat").mkdir(parents=True)
    failed = run("davis", "--steps", "score", "--data_path", davis, "--output", tmp_path / "out")
    assert failed.exit_code == 2
    assert "no masks of bear. Run step propagate" in failed.output


def test_a_torn_frame_fails_its_clip_alone(run, davis, checkpoint, tmp_path):
    torn = davis / "JPEGImages" / "480p" / "bear" / "00007.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    words = ["davis", "--data_path", davis, "--weights", checkpoint, "--output", tmp_path / "out", *SMALL]
    failed = run(*words)
    assert failed.exit_code == 1
    assert "00007.jpg" in failed.output
    assert "Not scored: a sequence failed" in failed.output
    assert len(list((tmp_path / "out" / "masks" / "cat").iterdir())) == 4


def test_names_of_encoders():
    assert variant_of("vit_base", None) == "rsp_vit_base_patch16"
    assert variant_of("vit", None) == variant_of("vit_large", 8) == "vit"
    with pytest.raises(UsageError, match="patch_size 8"):
        variant_of("rsp_vit_small_patch16", 8)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(run, name):
    shown = run(name, "--help")
    assert shown.exit_code == 0, shown.output
    assert "Example:" in shown.output or name == "data"


def test_help_costs_no_torch():
    code = (
        "import sys; from rsp_pretrain.cli import main; main(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
    assert get_method("rsp-pretrain").image_backend == "opencv"
