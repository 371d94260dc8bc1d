"""`train`, `score`, `pack`, `export-checkpoint` and `bench` through click's runner: options, files, what is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from train_toys import write_toy_clips

from sam2_rcms.cli import main
from sam2_rcms.model import SAM2
from sam2_rcms.train import run as train_run
from vos_core.io.masks import write_mask
from vos_core.weights.load import read_checkpoint


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def asked(monkeypatch):
    """What `train` would run."""
    seen = []

    def train(config, options, ranks):
        seen.append((config, options, ranks))
        return Path("model.pt")

    monkeypatch.setattr(train_run, "train", train)
    return seen


def test_train_options_become_settings(run, asked, tmp_path):
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")
    words = ["-c", "b+_stage2", "--data", tmp_path, "--layout", "mose", "--weights", weights, "-o", tmp_path / "out"]
    words += [
        "--use-cluster",
        "0",
        "--num-nodes",
        "1",
        "--set",
        "sampler.num_frames=12",
        "--steps",
        "50",
        "--accumulate",
        "2",
        "--num_workers",
        "0",
        "--seed",
        "9",
    ]
    done = run("train", *words, "--save-every", "25", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"network": "model.pt"}
    config, options, ranks = asked.pop()
    assert (config.variant, config.sampler.num_frames, config.freeze_image_encoder) == ("base_plus", 12, True)
    assert (config.steps, config.accumulate, config.workers, config.seed, config.save_every) == (50, 2, 0, 9, 25)
    assert (config.data[0].root, config.data[0].layout, config.precision) == (tmp_path, "mose", "fp32")
    assert (options.output, options.weights, ranks.device.type) == (tmp_path / "out", weights, "cpu")
    same = ["--img-folder", "J", "--gt_folder", "A", "--file_list_txt", "n.txt", "--precision", "bf16", "--weights", "random"]
    assert run("train", "-c", "l_stage1", *same, "--device", "cpu").exit_code == 0
    config, options, _ = asked.pop()
    assert (str(config.data[0].img_folder), str(config.data[0].gt_folder), config.precision) == ("J", "A", "bf16")
    assert (config.workers, config.accumulate, options.weights) == (10, 1, None)


def test_the_configuration_can_be_looked_at(run, asked, tmp_path):
    done = run("train", "-c", "l_stage2", "--set", "epochs=7", "--print-config")
    assert done.exit_code == 0, done.output
    values = yaml.safe_load(done.output)
    assert (values["variant"], values["epochs"], values["precision"]) == ("large", 7, "bf16")
    (tmp_path / "again.yaml").write_text(done.output)
    assert run("train", "-c", tmp_path / "again.yaml", "--print-config").output == done.output
    assert asked == []


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["-c", "b+_stage3"], "b+_stage2_file"),
        ([], "--config"),
        (["-c", "b+_stage2", "--data", "D", "--device", "cpu"], "stage 1"),
        (["-c", "b+_stage1", "--set", "lr=1"], "unknown option 'lr'"),
        (["-c", "b+_stage1", "--set", "epochs"], "key=value"),
        (["-c", "b+_stage1", "--weights", "sam3", "--device", "cpu"], "sam3"),
        (["-c", "b+_stage1", "--img-folder", "J"], "belong together"),
        (["-c", "b+_stage1", "--data", "D", "--gt-folder", "A"], "--data together with --img-folder or --gt-folder"),
        (["-c", "b+_stage1", "--device", "tpu"], "tpu"),
        (["-c", "b+_stage1", "--use-cluster", "1"], "--use-cluster: this command does not submit SLURM jobs"),
        (["-c", "b+_stage1", "--partition", "gpu", "--num_nodes", "2"], "--partition, --num-nodes: this command does not"),
    ],
)
def test_wrong_training_options_are_refused(words, named, run, asked):
    failed = run("train", *words)
    assert failed.exit_code in (1, 2)
    assert named in failed.output
    assert asked == []


def test_training_without_data_says_how_to_name_it(run, tmp_path):
    failed = run("train", "-c", "b+_stage1", "--weights", "random", "--device", "cpu", "-o", tmp_path)
    assert failed.exit_code == 2
    assert "--data" in failed.output
    missing = run(
        "train", "-c", "b+_stage1", "--weights", "random", "--device", "cpu", "-o", tmp_path, "--data", tmp_path / "none"
    )
    assert missing.exit_code == 1
    assert "none" in missing.output


def test_several_gpus_start_torchrun(run, asked, monkeypatch):
    started = []

    class Done:
        returncode = 3

    monkeypatch.setattr("subprocess.run", lambda words, check: started.append(words) or Done())
    monkeypatch.setattr("sys.argv", ["sam2-rcms", "train", "-c", "b+_stage1", "--num-gpus", "4"])
    monkeypatch.delenv("RANK", raising=False)
    assert run("train", "-c", "b+_stage1", "--num-gpus", "4", "--device", "cpu").exit_code == 3
    (words,) = started
    assert words[1:3] == ["-m", "torch.distributed.run"]
    assert words[words.index("--nproc-per-node") + 1] == "4"
    assert words[-4:] == ["-c", "b+_stage1", "--num-gpus", "4"]
    assert asked == []


# --- export-checkpoint ---


@pytest.fixture(scope="module")
def tiny_state():
    torch.manual_seed(0)
    return SAM2("tiny").state_dict()


def test_export_writes_what_is_released(run, tiny_state, tmp_path):
    average = {name: value + 1 for name, value in tiny_state.items() if name.endswith("bias")}
    checkpoint = {
        "it": 4,
        "network": tiny_state,
        "optimizer": {"state": {}, "param_groups": []},
        "ema": {"updates": 4, "average": average},
    }
    torch.save(checkpoint, tmp_path / "checkpoint_4.pth")
    done = run("export-checkpoint", tmp_path / "checkpoint_4.pth", tmp_path / "out.pt", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"target": str(tmp_path / "out.pt"), "size": "tiny", "keys": 471, "average": False}
    written = read_checkpoint(tmp_path / "out.pt")
    assert written.keys() == {"model"}
    assert all(torch.equal(written["model"][name], value) for name, value in tiny_state.items())
    assert run("export-checkpoint", tmp_path / "checkpoint_4.pth", tmp_path / "ema.pt", "--ema").exit_code == 0
    averaged = read_checkpoint(tmp_path / "ema.pt")["model"]
    assert torch.equal(averaged["mask_downsample.bias"], tiny_state["mask_downsample.bias"] + 1)
    assert torch.equal(averaged["no_mem_embed"], tiny_state["no_mem_embed"])
    assert run("export-checkpoint", tmp_path / "out.pt", tmp_path / "out.safetensors").exit_code == 0
    none = run("export-checkpoint", tmp_path / "out.pt", tmp_path / "x.pt", "--ema")
    assert none.exit_code == 1
    assert "ema_decay" in none.output


def test_export_refuses_other_networks_and_damaged_files(run, tiny_state, tmp_path):
    wrong = {name: value for name, value in tiny_state.items() if name != "no_mem_embed"}
    torch.save({"model": wrong}, tmp_path / "less.pt")
    failed = run("export-checkpoint", tmp_path / "less.pt", tmp_path / "out.pt")
    assert failed.exit_code == 1
    assert "no_mem_embed" in failed.output
    torch.save({"model": tiny_state}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:100_000])
    failed = run("export-checkpoint", tmp_path / "cut.pt", tmp_path / "out.pt")
    assert failed.exit_code == 1
    assert "cut.pt" in failed.output
    assert run("export-checkpoint", tmp_path / "whole.pt", tmp_path / "out.txt").exit_code == 2
    assert not (tmp_path / "out.pt").exists()


# --- score and pack ---


@pytest.fixture
def results(tmp_path):
    labels = np.zeros((24, 32), np.uint8)
    labels[4:12, 4:20] = 1
    for name in ("a", "b"):
        for t in range(4):
            for kind in ("ann", "pred"):
                write_mask(tmp_path / kind / name / f"{t:05d}.png", np.roll(labels, t * (kind == "pred"), 1))
    meta = {"videos": {name: {"length": 4, "height": 24, "width": 32, "objects": {"1": {}}} for name in ("a", "b")}}
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    return tmp_path


def test_score_writes_the_originals_files(run, results):
    words = ["score", "--meta", results / "meta.json", "--ann", results / "ann", "--pred", results / "pred", "-o", results / "s"]
    done = run(*words, "--debug", "--json")
    assert done.exit_code == 0, done.output
    scores = json.loads(done.output)["scores"]
    assert 0 < scores["J"] < 1
    assert (results / "s" / "scores.txt").read_text().startswith("J&F_new: ")
    assert json.loads((results / "s" / "metrics.json").read_text())["a_1"]["J"] == pytest.approx(100 * scores["J"], abs=0.01)
    (results / "pred" / "b" / "00002.png").unlink()
    failed = run(*words, "--debug")
    assert failed.exit_code == 1
    assert "00002" in failed.output
    assert run(*words, "--debug", "--missing", "empty").exit_code == 0
    assert run("score", "--meta", results / "meta.json").exit_code == 2


def test_pack_checks_before_it_writes(run, results):
    root = results / "MOSE"
    for name in ("a", "b"):
        (root / "valid" / "JPEGImages" / name).mkdir(parents=True)
        for t in range(4):
            from PIL import Image

            Image.new("RGB", (32, 24)).save(root / "valid" / "JPEGImages" / name / f"{t:05d}.jpg")
        write_mask(root / "valid" / "Annotations" / name / "00000.png", np.pad(np.ones((8, 8), np.uint8), ((0, 16), (0, 24))))
    archive = results / "out.zip"
    done = run("pack", results / "pred", archive, "--root", root)
    assert done.exit_code == 0, done.output
    with zipfile.ZipFile(archive) as found:
        assert sorted(found.namelist()) == [f"{name}/{t:05d}.png" for name in ("a", "b") for t in range(4)]
    archive.unlink()
    (results / "pred" / "b" / "00003.png").unlink()
    write_mask(results / "pred" / "a" / "00001.png", np.zeros((10, 10), np.uint8))
    failed = run("pack", results / "pred", archive, "--root", root)
    assert failed.exit_code == 1
    assert "00003" in failed.output
    assert "10x10" in failed.output
    assert not archive.exists()


# --- bench ---


def test_bench_says_where_the_time_goes(run, tmp_path):
    write_toy_clips(tmp_path)
    frames = next((tmp_path / "JPEGImages" / "480p").iterdir())
    words = ["bench", "--variant", "tiny", "--image-size", "64", "--frames", "4", "--device", "cpu", "--threads", "1"]
    done = run(*words, "--objects", "1,2", "--video", frames, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert [speed["objects"] for speed in found["speeds"]] == [1, 2]
    for speed in found["speeds"]:
        assert speed["frames"] == 2
        assert 0 < sum(speed["stages"].values()) < speed["seconds_per_frame"]
        assert all(value > 0 for value in speed["stages"].values())
        assert min(speed["peak_memory_bytes"], speed["state_bytes"]) > 0
    assert "encoder" in run(*words, "--objects", "1").output
    assert run(*words, "--objects", "0").exit_code == 2
    assert run(*words, "--objects", "two").exit_code == 2
