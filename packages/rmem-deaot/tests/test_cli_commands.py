"""`train`, `demo`, `vost-metric` and `bench` through click's runner: what they write, and what they say when used wrongly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from rmem_deaot.cli import COMMANDS, main
from rmem_deaot.painting import outline, paint
from rmem_deaot.published import PUBLISHED, published_row
from rmem_deaot.train import run as train_run
from rmem_deaot.train.bank import BankLimits
from rmem_deaot.weights import RELEASES
from vos_core.data.synthetic_write import ClipPlan, write_davis, write_folder

FRAMES = 3
SMALL = ("--weights", "random", "--variant", "deaott", "--device", "cpu", "--max_resolution", "48")


@pytest.fixture
def run():
    return lambda *words: CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    write_folder(root, ClipPlan(clips=2, frames=FRAMES, height=48, width=64, objects=2))
    return root


@pytest.fixture(scope="module")
def davis(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("davis")
    write_davis(root, ClipPlan(clips=1, frames=4, height=48, width=64, objects=2))
    return root


def test_every_command_says_what_it_does(run):
    for name in COMMANDS:
        done = run(name, "--help")
        assert done.exit_code == 0, done.output
        assert "Example: rmem-deaot" in done.output or "torchrun" in done.output


# --- train ---


@pytest.fixture
def asked(monkeypatch):
    """What `train` would run."""
    seen = []

    def stage(plan, options, ranks):
        seen.append((plan, options, ranks))
        return Path("last.pth")

    monkeypatch.setattr(train_run, "train_stage", stage)
    return seen


def test_training_options_become_settings(run, asked, tmp_path):
    words = ["--stage", "pre_ytb_dav", "--model", "r50_deaotl", "--use_temporal_pos_emb", "--exp_name", "n", "-o", tmp_path]
    words += [
        "--yv_root",
        "Y",
        "--davis-root",
        "D",
        "--datasets",
        "davis2017",
        "--batch_size",
        4,
        "--total_step",
        9,
        "--lr",
        "0.1",
    ]
    words += ["--seq_len", 6, "--lt_gap", 3, "--size", 65, "--max_id_num", 2, "--pretrained_path", "a.pth", "--accumulate", 2]
    words += ["--restrict-memory", "--restrict-by", "oldest", "--latter_mem_len", 5, "--num_workers", 0, "--save-every", 3]
    words += ["--use_prev_prob"]
    done = run("train", *words, "--seed", 8, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"weights": "last.pth"}
    plan, options, ranks = asked[0]
    assert (plan.variant, plan.stage.name) == ("r50_deaotl_rmem", "PRE_YTB_DAV")
    assert options.roots == {"youtubevos": Path("Y"), "davis2017": Path("D")}
    assert options.sources == ("davis2017",)
    assert (options.batch, options.steps, options.lr, options.frames, options.gap) == (4, 9, 0.1, 6, 3)
    assert (options.size, options.objects, options.previous, options.accumulate) == (65, 2, Path("a.pth"), 2)
    assert options.limits == BankLimits(1, 5, "oldest")
    assert options.soft_masks
    assert (options.workers, options.save_every, options.seed, options.precision) == (0, 3, 8, "fp32")
    assert (options.name, options.output, ranks.world) == ("n", tmp_path, 1)


def test_deterministic_algorithms_can_be_asked_for(run, asked):
    try:
        assert run("train", "--model", "aott", "--device", "cpu", "--fix_random", "--threads", 1).exit_code == 0
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(asked) == 1


def test_training_defaults_are_the_published_ones(run, asked):
    assert run("train", "--model", "aott", "--stage", "PRE", "--device", "cpu", "--amp").exit_code == 0
    assert run("train", "--model", "r50_aotl", "--stage", "pre_vost", "--device", "cpu", "--restrict-memory").exit_code == 0
    (plan, options, _), (vost, restricted, _) = asked
    assert options.precision == "bf16"
    assert (options.batch, options.steps, options.limits, options.init, options.size) == (None, None, None, None, 465)
    assert train_run.with_changes(plan, options).stage == plan.stage
    assert vost.variant == "r50_aotl_vost"
    assert restricted.limits == BankLimits(1, vost.config.latter, "relevance")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stage", "x"], "PRE_YTB_DAV"),
        (["--model", "x"], "r50_deaotl"),
        (["--datasets", "imagenet"], "unknown set"),
        (["--latter_mem_len", "5"], "--restrict-memory"),
        (["--lr", "0"], "lr"),
        (["--max_id_num", "11"], "max_id_num"),
        (["--colour", "1"], "No such option"),
        (["--model", "rs101_aotl"], "ResNeSt-101"),
        (["--debug_fix_random"], "--debug_fix_random is not taken"),
        (["--use_prev_prob", "--stage", "pre"], "true masks only"),
    ],
)
def test_wrong_training_options_are_named(run, asked, words, message):
    done = run("train", "--device", "cpu", *words)
    assert done.exit_code == 2
    assert message in done.output
    assert not asked


def test_training_without_data_is_explained(run, tmp_path):
    done = run("train", "--stage", "pre_dav", "--model", "aott", "--device", "cpu", "-o", tmp_path)
    assert done.exit_code == 2
    assert "--davis_root" in done.output
    assert "Traceback" not in done.output


# --- demo ---


def test_demo_paints_the_original_s_folders(run, folder, tmp_path):
    data = tmp_path / "Demo"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
    names = sorted(path.name for path in (folder / "JPEGImages").iterdir())
    for name in names:
        shutil.copytree(folder / "JPEGImages" / name, data / "images" / name)
        (data / "masks" / name).mkdir()
        shutil.copy(folder / "Annotations" / name / "00000.png", data / "masks" / name)
    out = tmp_path / "out"
    words = ("demo", "--data_path", data, "--output_path", out, *SMALL)
    done = run(*words)
    assert done.exit_code == 0, done.output
    for name in names:
        masks = sorted(path.name for path in (out / "masks" / name).glob("*.png"))
        assert masks == [f"{t:05d}.png" for t in range(FRAMES)]
        assert len(list((out / "overlays" / name).glob("*.jpg"))) == FRAMES
        video = cv2.VideoCapture(str(out / f"{name}.webm"))
        assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(15)
        assert video.read()[1].shape == (48, 64, 3)
    kept = (out / f"{names[0]}.webm").stat().st_mtime_ns
    (out / f"{names[1]}.webm").unlink()
    assert run(*words).exit_code == 0
    assert (out / f"{names[0]}.webm").stat().st_mtime_ns == kept, "what is done is kept"
    assert (out / f"{names[1]}.webm").is_file(), "what was missing is made"


def test_demo_takes_one_clip_and_names_wrong_ones(run, folder, tmp_path):
    name = min(path.name for path in (folder / "JPEGImages").iterdir())
    clip, mask = folder / "JPEGImages" / name, folder / "Annotations" / name / "00000.png"
    done = run("demo", "--video", clip, "--mask", mask, "-o", tmp_path / "out", "--fps", 5, *SMALL)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == FRAMES
    empty = run("demo", "--data_path", tmp_path / "none", *SMALL)
    assert empty.exit_code != 0
    assert "images/<sequence>" in empty.output
    (tmp_path / "Demo" / "images" / "a").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(tmp_path / "Demo" / "images" / "a" / "0.png")
    unknown = run("demo", "--data_path", tmp_path / "Demo", "--only", "b", *SMALL)
    assert "no sequence b" in unknown.output
    without = run("demo", "--data_path", tmp_path / "Demo", "-o", tmp_path / "x", *SMALL)
    assert without.exit_code == 1
    assert "mask" in without.output


def test_painted_objects_keep_four_tenths_of_the_image_and_get_a_black_line():
    labels = np.zeros((8, 8), np.uint8)
    labels[2:6, 2:6] = 1
    rgb = np.full((8, 8, 3), 100, np.uint8)
    painted = paint(rgb, labels)
    edge = outline(labels)
    assert not (edge & (labels > 0)).any()
    assert edge.sum() == 16, "one pixel on each of four sides"
    assert not painted[edge].any()
    assert (painted[0, 0] == 100).all()
    assert painted[3, 3].tolist() == [round(0.4 * 100 + 0.6 * 128), 40, 40]
    labels[2:6, 4:6] = 2
    assert outline(labels)[3, 3], "between two objects, on the smaller id"


# --- scores ---


def test_bench_segments_and_scores(run, davis, tmp_path):
    out = tmp_path / "out"
    done = run("bench", "davis2017", "--data-root", davis, "--output", out, *SMALL, "--json")
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["scores"]
    assert 0 <= scores["J&F-Mean"] <= 1
    assert (out / "results.json").is_file()
    assert len(list(out.rglob("*.png"))) == 4
    again = run("bench", "davis2017", "--data-root", davis, "--output", out, *SMALL)
    assert again.exit_code == 0
    assert "J&F-Mean" in again.stdout


def test_bench_does_not_score_what_failed(run, davis, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(davis, broken)
    frame = next((broken / "JPEGImages").rglob("00002.jpg"))
    frame.write_bytes(frame.read_bytes()[:200])
    done = run("bench", "davis2017", "--data-root", broken, "--output", tmp_path / "out", *SMALL)
    assert done.exit_code == 1
    assert "Not scored" in done.output
    assert "00002.jpg" in done.output
    assert not (tmp_path / "out" / "results.json").exists()


def test_vost_metric_scores_with_the_last_quarter(run, folder, tmp_path):
    root = tmp_path / "VOST"
    (root / "ImageSets").mkdir(parents=True)
    shutil.copytree(folder / "Annotations", root / "Annotations")
    names = sorted(path.name for path in (root / "Annotations").iterdir())
    (root / "ImageSets" / "val.txt").write_text("\n".join(names))
    done = run("vost-metric", "--dataset_path", root, "--results_path", folder / "Annotations", "--output", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    scores = json.loads(done.stdout)["scores"]
    assert scores["J-Mean"] == scores["J_last-Mean"] == 1
    (root / "ImageSets" / "val.txt").write_text("absent")
    wrong = run("vost-metric", "--dataset_path", root, "--results_path", folder / "Annotations")
    assert wrong.exit_code != 0
    assert "absent" in wrong.output


def test_published_scores_belong_to_released_checkpoints():
    assert all(name in RELEASES for rows in PUBLISHED.values() for name in rows)
    assert published_row("davis2017", "R50_DeAOTL_temp_pe_10wstep_80000") == "J&F 85.2, J 82.3, F 88.2"
    assert published_row("davis2017", None) == ""
