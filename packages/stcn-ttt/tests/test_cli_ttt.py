"""`ttt`, `save-config` and `make-davis-c` through click's runner."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

from stcn_ttt.adapt import experiment
from stcn_ttt.adapt.config import TttConfig, load_config
from stcn_ttt.adapt.experiment import Trial, format_rows, summarise
from stcn_ttt.cli import main
from vos_core.data.synthetic_write import ClipPlan, write_davis
from vos_core.io.masks import read_mask

FRAMES = 3
QUICK = ["--res", "-1", "--ttt_resolution", "32", "--ttt_number_jump_steps", "1", "--ttt-number-iterations-per-jump-step", "1"]
QUICK += [
    "--ttt_loss",
    "tt-ent",
    "--ttt_frozen_layers",
    "net,ubn",
    "--ttt_sequence_length",
    "2",
    "--weights",
    "random",
    "--device",
    "cpu",
]


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="session")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("DAVIS")
    write_davis(root, ClipPlan(clips=2, frames=FRAMES, height=32, width=48, objects=1, scenarios=("motion",)))
    return root


@pytest.fixture(scope="session")
def names(davis):
    return sorted(path.name for path in (davis / "JPEGImages" / "480p").iterdir())


def test_ttt_compares_seeds_with_the_baseline(run, davis, names, tmp_path):
    (tmp_path / "list.txt").write_text(f"{names[1]}\n")
    (tmp_path / "x.yaml").write_text("TEST_TIME_TRAIN: {TTT_LR: 0.5}\nGLOBAL: {CONFIG_NAME: mine}\n")
    words = ["--dataset_name", "davis", "--dataset_dir", davis, "--video_set_filename", tmp_path / "list.txt", *QUICK]
    words += ["--config", tmp_path / "x.yaml", "--ttt_lr", "1e-3", "--no-ttt", "--seed", "1", "--seed", "5", "--threads", "1"]
    done = run("ttt", *words, "--output_dir", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    table = json.loads((out / "table.json").read_text())
    assert json.loads(done.stdout) == table["rows"]
    baseline, mine = table["rows"]
    assert (baseline["arm"], mine["arm"]) == ("no-ttt", "mine")
    assert mine["seeds"] == [1, 5]
    assert [trial["seed"] for trial in table["trials"]] == [1, 1, 5]
    scores = [trial["scores"]["J&F"] for trial in table["trials"] if trial["arm"] == "mine"]
    assert mine["J&F"] == pytest.approx(statistics.fmean(scores))
    assert mine["J&F std"] == pytest.approx(statistics.stdev(scores))
    assert (baseline["J&F std"], baseline["adapt seconds per clip"]) == (None, 0)
    assert mine["adapt seconds per clip"] > 0
    assert mine["peak MiB"] > 0
    shown = (out / "table.md").read_text()
    assert "| mine | 1, 5 |" in shown
    assert "±" in shown
    for arm, seed in (("no-ttt", 1), ("mine", 1), ("mine", 5)):
        masks = sorted((out / arm / str(seed) / "final").glob("*/*.png"))
        assert [path.parent.name for path in masks] == [names[1]] * FRAMES, "the list of clips counts"
        record = json.loads((out / arm / str(seed) / "final" / "run.json").read_text())
        assert record["options"].get("ttt_lr") == (1e-3 if arm == "mine" else None), "option over YAML over default"
        assert record["options"]["res"] == -1
    stamp = masks[0].stat().st_mtime_ns
    again = run("ttt", *words, "--output_dir", out)
    assert again.exit_code == 0, again.output
    assert masks[0].stat().st_mtime_ns == stamp, "a rerun resumes"
    assert again.stdout == shown


def test_ttt_on_davis_c_and_on_a_video(run, davis, names, tmp_path):
    corrupted = tmp_path / "C" / "low" / "contrast"
    made = run("make-davis-c", "--davis_path", davis, "--strength", "low", "--corruption", "contrast", "--output", tmp_path / "C")
    assert made.exit_code == 0, made.output
    words = ["ttt", "--dataset_name", "davis-c", "--dataset_dir", davis, "--only", names[0], "--base", "stcn_ent", *QUICK]
    done = run(*words, "--corrupted_image_dir", corrupted, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "| stcn_ent | 1 |" in done.output
    assert len(list((tmp_path / "out" / "stcn_ent" / "1" / "final" / names[0]).glob("*.png"))) == FRAMES
    missing = run(*words, "-o", tmp_path / "none")
    assert missing.exit_code == 2
    assert "--corrupted_image_dir" in missing.output

    film = tmp_path / "film.mp4"
    write_film(film)
    labels = np.zeros((32, 48), np.uint8)
    labels[8:20, 8:24] = 3
    Image.fromarray(labels).save(tmp_path / "first.png")
    done = run("ttt", "--video", film, "--mask", tmp_path / "first.png", *QUICK, "-o", tmp_path / "video")
    assert done.exit_code == 0, done.output
    found = sorted((tmp_path / "video").glob("*/1/final/film/*.png"))
    assert len(found) == FRAMES
    np.testing.assert_array_equal(read_mask(found[0]), labels)
    assert "| stcn_s01_mcc | 1 | - | - | - |" in done.output, "nothing to score"


def write_film(path):
    rng = np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (48, 32))
    for _ in range(FRAMES):
        writer.write(rng.integers(0, 255, (32, 48, 3), dtype=np.uint8))
    writer.release()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--ttt_loss", "mcc"], "tt-mcc"),
        (["--ttt_frozen_layers", "net,unb"], "unb"),
        (["--ttt_sequence_length", "1"], "2 frames"),
        (["--base", "stcn"], "stcn_mcc"),
        (["--config", "none.yaml"], "none.yaml"),
        (["--base", "stcn_mcc", "--base", "stcn_ent", "--config_name", "same"], "two configurations"),
        (["--res", "7"], "16"),
        (["--no-such"], "--no-such"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_wrong_options_exit_2(words, named, run, davis, tmp_path):
    failed = run("ttt", "--dataset_name", "davis", "--dataset_dir", davis, "--weights", "random", *words, "-o", tmp_path / "out")
    assert failed.exit_code == 2, failed.output
    assert named in failed.output
    assert not (tmp_path / "out").exists()


def test_places_that_are_missing_are_named(run, davis, tmp_path):
    for words, named in (
        (["--dataset_name", "davis"], "--dataset_dir"),
        (["--dataset_dir", davis], "--dataset_name"),
        ([], "--clips"),
    ):
        failed = run("ttt", *words, "--weights", "random", "-o", tmp_path / "out")
        assert failed.exit_code == 2
        assert named in failed.output
    (tmp_path / "list.txt").write_text("cow\n")
    words = ["ttt", "--dataset_name", "davis", "--dataset_dir", davis, "--weights", "random", "-o", tmp_path / "out"]
    assert "cow" in run(*words, "--video_set_filename", tmp_path / "list.txt").output
    assert "cow" in run(*words, "--only", "cow").output


def test_a_clip_that_fails_is_reported(run, davis, names, tmp_path):
    broken = tmp_path / "D"
    shutil.copytree(davis, broken)
    (broken / "JPEGImages" / "480p" / names[0] / "00001.jpg").write_bytes(b"no picture")
    done = run(
        "ttt",
        "--dataset_name",
        "davis",
        "--dataset_dir",
        broken,
        "--no-ttt",
        "--res",
        "-1",
        "--weights",
        "random",
        "-o",
        tmp_path / "o",
    )
    assert done.exit_code == 1
    assert names[0] in done.output
    assert "| no-ttt |" in done.output
    assert len(list((tmp_path / "o" / "no-ttt" / "1" / "final" / names[1]).glob("*.png"))) == FRAMES


def trial(arm, seed, score, seconds=1.0):
    return Trial(arm, seed, {"J&F": score, "J": score, "F": None}, seconds, 2.0, 2**20 * seed, (), None)


def test_rows_are_means_and_deviations():
    rows = summarise([trial("a", 1, 0.5), trial("a", 5, 0.6, 3.0), trial("b", 1, None)])
    assert rows[0]["J&F"] == pytest.approx(0.55)
    assert rows[0]["J&F std"] == pytest.approx(statistics.stdev([0.5, 0.6]))
    assert (rows[0]["adapt seconds per clip"], rows[0]["peak MiB"]) == (2, 5)
    assert "| a | 1, 5 | 55.0 ± 7.1 | 55.0 ± 7.1 | - | 2.0 | 2.0 | 5 |" in format_rows(rows)
    assert "| b | 1 | - | - | - |" in format_rows(rows)
    assert experiment._finite(float("nan")) is None


def test_save_config(run, tmp_path):
    words = [
        "--config_name",
        "mine",
        "--ttt_loss",
        "tt-ae",
        "--ttt_sequence_length",
        "1,2",
        "--ttt_augmentations",
        "colour",
        "--no-overwrite",
    ]
    done = run("save-config", *words, "--amp", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    path = tmp_path / "mine.yaml"
    assert done.output.strip() == str(path)
    config = load_config(None, (path,))
    changed = {"config_name": "mine", "ttt_loss": "tt-ae", "ttt_sequence_length": (1, 2), "ttt_augmentations": ("colour",)}
    assert config == TttConfig(**changed, overwrite=False, amp=True)
    assert config.model_filename == "saves/stcn_s01.pth"
    assert run("save-config", "--base", "stcn_s0_ent", "--ttt-lr", "1", "--output", tmp_path).exit_code == 0
    assert load_config(None, (tmp_path / "stcn_s0_ent.yaml",)) == load_config("stcn_s0_ent", options={"ttt_lr": 1})
    assert yaml.safe_load((tmp_path / "stcn_s0_ent.yaml").read_text())["TEST_TIME_TRAIN"]["TTT_LR"] == 1
    bad = run("save-config", "--ttt_lr", "0", "--output", tmp_path)
    assert bad.exit_code == 2
    assert "ttt_lr" in bad.output


def test_make_davis_c(run, davis, names, tmp_path):
    words = ["make-davis-c", "--davis_path", davis, "--strength", "low", "--strength", "high", "--corruption", "gaussian_noise"]
    done = run(*words, "--only", names[0], "--seed", "1", "--quality", "90", "--output", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "output": str(tmp_path / "out"),
        "clips": 1,
        "corruptions": ["gaussian_noise"],
        "strengths": ["low", "high"],
        "written": 2 * FRAMES,
    }
    assert len(list((tmp_path / "out" / "high" / "gaussian_noise" / names[0]).glob("*.jpg"))) == FRAMES
    again = run(*words, "--only", names[0], "--seed", "1", "--quality", "90", "--output", tmp_path / "out")
    assert again.stdout.strip() == f"0 frames written to {tmp_path / 'out'}"
    for extra, named in ((["--seed", "2"], "other settings"), (["--corruption", "style1"], "--style-transfer")):
        refused = run(*words, "--only", names[0], "--output", tmp_path / "out", *extra)
        assert refused.exit_code == 2
        assert named in refused.output
    assert run(*words, "--corruption", "fog", "--output", tmp_path / "x").exit_code == 2
    assert run("make-davis-c", "--output", tmp_path / "x").exit_code == 2
    plain = run(
        "make-davis-c",
        "--clips",
        davis_folder(davis, tmp_path),
        "--strength",
        "med",
        "--corruption",
        "contrast",
        "-o",
        tmp_path / "y",
    )
    assert plain.exit_code == 0, plain.output
    assert len(list((tmp_path / "y" / "med" / "contrast").glob("*/*.jpg"))) == 2 * FRAMES


def davis_folder(davis, tmp_path):
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(davis / kind / "480p", tmp_path / "plain" / kind)
    return tmp_path / "plain"


def test_half_precision_holds_for_the_baseline_too(run, davis, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(experiment, "run_experiment", lambda method, arms, clips, **rest: seen.extend(arms) or [])
    words = ["ttt", "--dataset_name", "davis", "--dataset_dir", davis, "--base", "stcn_ent", "--no-ttt", "--device", "cpu"]
    for extra in ([], ["--amp"]):
        assert run(*words, *extra, "-o", tmp_path).exit_code == 0
    assert [(arm.name, arm.options.get("amp"), arm.precision) for arm in seen] == [
        ("no-ttt", None, None),
        ("stcn_ent", False, None),
        ("no-ttt", None, "bf16"),
        ("stcn_ent", True, None),
    ]
    assert {arm.weights for arm in seen} == {"stcn"}, "the released name stands for the file that is not there"


def test_importing_the_commands_is_cheap():
    names = ("ttt", "save_config", "train", "make_davis_c")
    code = f"import sys, {', '.join(f'stcn_ttt.cli.{name}' for name in names)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help_shows_an_example(run):
    for command in ("ttt", "save-config", "train", "make-davis-c"):
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert "Example:" in shown.output
    assert "--ttt_number_jump_steps" in run("ttt", "--help").output
