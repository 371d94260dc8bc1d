"""`infer`, `eval` and `inspect` through click's runner: what they write, how options reach the method, what goes wrong."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rmem_deaot.cli import main
from rmem_deaot.cli.evaluate import trained_weights
from rmem_deaot.config import VARIANTS, SegmenterConfig
from rmem_deaot.model import AOTNetwork
from rmem_deaot.presets import PRESETS, open_preset
from vos_core.cli.main import main as vos_main
from vos_core.data.synthetic_write import ClipPlan, write_davis, write_folder, write_youtube_vos
from vos_core.errors import WeightsError
from vos_core.io.masks import read_mask, write_mask

FRAMES = 4
PLAN = ClipPlan(clips=2, frames=FRAMES, height=48, width=64, objects=2)
SMALL = ("--weights", "random", "--variant", "deaott", "--device", "cpu")


@pytest.fixture
def run():
    return lambda *words, command=main: CliRunner().invoke(command, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    write_folder(root, PLAN)
    return root


@pytest.fixture(scope="module")
def davis(tmp_path_factory):
    root = tmp_path_factory.mktemp("davis")
    write_davis(root, PLAN)
    return root


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "AOTT_PRE.pth"
    torch.save({"state_dict": AOTNetwork(VARIANTS["aott"].network).state_dict()}, path)
    return path


def test_infer_writes_a_mask_per_frame_and_resumes(run, folder, tmp_path):
    words = ("infer", "--clips", folder, *SMALL, "--output", tmp_path, "--json")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert len(list(tmp_path.rglob("*.png"))) == 2 * FRAMES
    record = json.loads(done.stdout)
    assert [clip["status"] for clip in record["clips"]] == ["done", "done"]
    again = run(*words)
    assert json.loads(again.stdout)["clips"] == record["clips"], "finished clips are kept"


def test_options_in_the_words_of_the_original_reach_the_method(run, folder, tmp_path):
    done = run(
        "infer", "--clips", folder, *SMALL, "--output", tmp_path, "--lt_gap", 2, "--st_skip", 2, "--restrict-memory",
        "--former_mem_len", 1, "--latter_mem_len", 3, "--tpe", "off", "--max_resolution", 60, "--ms", 1.0, "--ms", 1.3, "--flip",
        "--memory-gap-cap", 0, "--use_prev_prob", "--amp", "--set", "restrict_by_attention=false",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "run.json").read_text())["resume"]["settings"]
    assert made["precision"] == "bf16"
    assert made["augmentation"] is None, "each copy keeps its own memory, which the method does"
    assert made["options"] == {
        "lt_gap": 2, "st_skip": 2, "restrict_memory": True, "former_mem_len": 1, "latter_mem_len": 3, "tpe": False,
        "max_resolution": 60.0, "ms": [1.0, 1.3], "flip": True, "memory_gap_cap": 0, "use_prev_prob": True,
        "restrict_by_attention": False,
    }  # fmt: skip


def test_vos_run_takes_the_method_and_the_keys_tell_the_variant(run, folder, checkpoint, tmp_path):
    done = run(
        "run", "--method", "rmem-deaot", "--clips", folder, "--weights", checkpoint, "--output", tmp_path, command=vos_main
    )
    assert done.exit_code == 0, done.output
    assert len(list(tmp_path.rglob("*.png"))) == 2 * FRAMES


def test_infer_explains_wrong_use(run, folder, checkpoint, tmp_path):
    for words, expected in (
        (("--ckpt_path", checkpoint, "--weights", "random"), "differ"),
        (("--model", "aotx", "--weights", "random"), "aotx"),
        (("--ckpt_path", checkpoint, "--model", "deaott"), "holds variant aott"),
        (("--weights", "random", "--ms", 1.0, "--scales", "1.0,1.2"), "Give one"),
        (("--weights", "random", "--scales", "a"), "list of numbers"),
        (("--weights", "random", "--set", "lt_gpa=3"), "lt_gap"),
        (("--weights", "random", "--gpu_id", 0, "--device", "cpu"), "differ"),
        (("--variant", "r101_aotl"), "no released weights"),
        (("--model", "rs101_aotl", "--weights", "random"), "ResNeSt-101"),
        (("--model", "mobilenetv3_aott", "--weights", "random"), "MobileNetV3"),
        (("--tpe", "sincos", "--weights", "random"), "sincos"),
        (("--model", "deaott", "--weights", "random", "--latter_mem_len", 3), "not restricted"),
        (("--model", "deaott", "--weights", "random", "--set", "latter_mem_len=3"), "not restricted"),
        (("--model", "deaott", "--weights", "random", "--former_mem_len", 2), "not restricted"),
    ):
        device = () if "--device" in words else ("--device", "cpu")
        done = run("infer", "--clips", folder, *device, *words, "--output", tmp_path / expected)
        assert done.exit_code != 0, words
        assert expected in done.output, done.output


def test_eval_runs_a_benchmark_with_its_settings(run, davis, tmp_path):
    done = run("eval", "--dataset", "davis2017", "--data-root", davis, *SMALL, "--output", tmp_path)
    assert done.exit_code == 0, done.output
    made = json.loads((tmp_path / "run.json").read_text())
    assert made["options"] == {"output_height": 480}
    assert made["settings"]["options"] == SegmenterConfig(output_height=480).model_dump(mode="json")
    masks = sorted(tmp_path.rglob("*.png"))
    assert len(masks) == 2 * FRAMES
    first = read_mask(masks[0])
    assert first.shape == (48, 64)
    only = masks[0].parent.name
    chosen = run("eval", "--dataset", "davis2017", "--data-root", davis, *SMALL, "--only", only, "--output", tmp_path / "one")
    assert chosen.exit_code == 0, chosen.output
    assert len(list((tmp_path / "one").rglob("*.png"))) == FRAMES
    wrong = run("eval", "--dataset", "davis2017", "--data-root", davis, *SMALL, "--only", "nobody", "--output", tmp_path / "one")
    assert "nobody" in wrong.output
    absent = run("eval", "--dataset", "davis2017", "--data-root", tmp_path / "absent", *SMALL, "--output", tmp_path / "two")
    assert "does not exist" in absent.output


def test_eval_takes_the_newest_average_of_a_training_run(run, davis, checkpoint, tmp_path):
    folder = tmp_path / "logs" / "default_aott" / "PRE" / "ema_ckpt"
    folder.mkdir(parents=True)
    for step in (20, 100):
        (folder / f"save_step_{step}.pth").write_bytes(checkpoint.read_bytes())
    assert trained_weights(tmp_path / "logs/default_aott/pre", None).name == "save_step_100.pth"
    assert trained_weights(tmp_path / "logs/default_aott/PRE", 20).name == "save_step_20.pth"
    with pytest.raises(WeightsError, match="20, 100"):
        trained_weights(tmp_path / "logs/default_aott/PRE", 7)
    with pytest.raises(WeightsError, match="no checkpoint"):
        trained_weights(tmp_path / "logs/other_aott/PRE", None)
    words = ("eval", "--dataset", "davis2017", "--data-root", davis, "--log", tmp_path / "logs", "--model", "aott")
    done = run(*words, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "save_step_100" in (tmp_path / "out" / "run.json").read_text()
    both = run(*words, "--ckpt_path", checkpoint, "--output", tmp_path / "out2")
    assert "Give one" in both.output


def test_eval_takes_the_weights_that_are_no_average(run, davis, checkpoint, tmp_path):
    folder = tmp_path / "logs" / "default_aott" / "PRE"
    (folder / "ema_ckpt").mkdir(parents=True)
    (folder / "ema_ckpt" / "save_step_40.pth").write_bytes(checkpoint.read_bytes())
    state = torch.load(checkpoint)["state_dict"]
    for step in (20, 30):
        torch.save({"it": step, "network": state, "ema": {"weights": {}}}, folder / f"checkpoint_{step}.pth")
    assert trained_weights(folder, 20, average=False).name == "checkpoint_20.pth"
    with pytest.raises(WeightsError, match=r"20, 30.*checkpoint_40\.pth"):
        trained_weights(folder, 40, average=False)
    words = ("eval", "--dataset", "davis2017", "--data-root", davis, "--model", "aott", "--no_ema")
    done = run(*words, "--log", tmp_path / "logs", "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "checkpoint_30" in (tmp_path / "out" / "run.json").read_text()
    alone = run(*words, "--ckpt_path", checkpoint, "--output", tmp_path / "out2")
    assert "without --log" in alone.output


@pytest.mark.parametrize("option", ["--fix_random", "--debug_fix_random"])
def test_eval_refuses_random_options_that_have_no_meaning_here(run, davis, tmp_path, option):
    done = run("eval", "--dataset", "davis2017", "--data-root", davis, *SMALL, option, "--output", tmp_path)
    assert done.exit_code == 2
    assert f"{option} is not taken" in done.output
    assert not list(tmp_path.iterdir())


def test_presets_choose_the_masks_that_published_runs_saw(tmp_path, davis):
    assert {"davis2016", "davis2017", "youtubevos2018", "youtubevos2019", "lvos", "long_videos", "vost"} <= PRESETS.keys()
    assert all(clip.prompt_rule == "first_frame" for clip in open_preset("davis2017", davis, None))
    assert all(clip.prompt_rule == "first_seen" for clip in open_preset("davis2017", davis, None, all_first_masks=True))
    write_youtube_vos(tmp_path, ClipPlan(clips=1, frames=11, height=48, width=64, objects=2))
    (sparse,) = open_preset("youtubevos2019", tmp_path, "val")
    assert sparse.prompt_rule == "first_seen"
    assert PRESETS["lvos"].first_masks_only
    assert PRESETS["vost"].void_is_object
    assert PRESETS["vost"].options["default_latter"] == 8


def test_vost_is_run_as_published_ignored_pixels_included(run, tmp_path):
    frames, masks = tmp_path / "JPEGImages_10fps" / "1_cut", tmp_path / "Annotations" / "1_cut"
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    (tmp_path / "ImageSets").mkdir()
    (tmp_path / "ImageSets" / "val.txt").write_text("1_cut\n")
    labels = np.zeros((48, 64), np.uint8)
    labels[5:25, 5:25], labels[25:35, 5:25] = 1, 255
    for t in range(FRAMES):
        cv2.imwrite(str(frames / f"frame{t:05d}.jpg"), np.full((48, 64, 3), 40 * t, np.uint8))
        if t % 2 == 0:
            write_mask(masks / f"frame{t:05d}.png", np.where(labels == 1, 1 + t // 2, labels).astype(np.uint8))
    (clip,) = open_preset("vost", tmp_path, None)
    assert (clip.void, clip.prompt_rule, len(clip.frames)) == (None, "first_frame", FRAMES)
    done = run("eval", "--preset", "vost", "--data-root", tmp_path, *SMALL, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert len(written) == FRAMES
    np.testing.assert_array_equal(read_mask(written[0]), labels)
    assert set(np.unique(read_mask(written[-1]))) <= {0, 1, 255}, "later masks are not given"
    made = json.loads((tmp_path / "out" / "run.json").read_text())
    assert made["options"] == {"default_latter": 8, "merged_memory": True}, "no fault where the bank is not restricted"


def test_inspect_says_which_variant_a_file_is(run, checkpoint, tmp_path):
    done = run("inspect", checkpoint)
    assert done.exit_code == 0, done.output
    assert "is aott: aot on mobilenetv2, 1 layers" in done.output
    made = json.loads(run("inspect", checkpoint, "--json").output)
    assert made["variant"] == "aott"
    assert made["parameters"] == 5_734_099
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"PK nothing")
    failed = run("inspect", bad)
    assert "bad.pth" in failed.output


def test_more_than_ten_objects_and_sparse_ids_come_back_as_given(run, tmp_path):
    clip = tmp_path / "clips"
    write_folder(clip, ClipPlan(clips=1, frames=3, height=48, width=64, objects=2))
    first = sorted((clip / "Annotations").rglob("*.png"))[0]
    for later in sorted((clip / "Annotations").rglob("*.png"))[1:]:
        later.unlink()
    labels = np.zeros((48, 64), np.uint8)
    for place in range(13):
        labels[8:30, 4 * place : 4 * place + 4] = 3 * place + 2
    write_mask(first, labels)
    done = run("infer", "--clips", clip, *SMALL, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    masks = sorted((tmp_path / "out").rglob("*.png"))
    np.testing.assert_array_equal(read_mask(masks[0]), labels)
    assert set(np.unique(read_mask(masks[-1]))) <= {0, *(3 * place + 2 for place in range(13))}
