"""`train` through click's runner: options become settings, stages run, what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from stcn_ttt.cli import main
from stcn_ttt.model.network import Segmentation
from stcn_ttt.train import objective
from stcn_ttt.train import run as train_run
from vos_core.data.synthetic_write import ClipPlan, write_davis
from vos_core.ops.aggregate import aggregate_logits


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture
def asked(monkeypatch):
    """What `train` would run."""
    seen = []

    def chain(stages, options, ranks):
        seen.append((tuple(stages), options, ranks))
        return Path("last.pth")

    monkeypatch.setattr(train_run, "train_chain", chain)
    return seen


def test_options_become_settings(run, asked, tmp_path):
    words = ["--id", "n", "-o", tmp_path, "--davis_root", "D", "--yv-root", "Y", "--davis_subset", "s.txt", "-b", "3", "-i", "9"]
    words += ["--steps", "4,6", "--lr", "0.1", "--gamma", "0.5", "--size", "64", "--accumulate", "2", "--num_workers", "0"]
    done = run("train", "--stage", "2", *words, "--load_network", "a.pth", "--load_model", "b.pth", "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.output) == {"network": "last.pth"}
    stages, options, ranks = asked.pop()
    assert stages == (2,)
    assert (options.name, options.output, options.batch_size, options.iterations) == ("n", tmp_path, 3, 9)
    assert (options.milestones, options.lr, options.gamma, options.size) == ((4, 6), 0.1, 0.5, 64)
    assert (options.accumulate, options.workers, options.precision) == (2, 0, "fp32")
    assert (options.load_network, options.load_model) == (Path("a.pth"), Path("b.pth"))
    assert (options.roots.davis, options.roots.youtube, options.roots.davis_subset) == (Path("D"), Path("Y"), Path("s.txt"))
    assert (options.log_every, options.picture_every, options.save_every) == (100, 800, 50_000)
    assert ranks.device == torch.device("cpu")
    assert run("train", "--chain", "s012", "--device", "cpu", "--debug", "--precision", "bf16").exit_code == 0
    stages, options, _ = asked.pop()
    assert stages == (0, 1, 2)
    assert (options.batch_size, options.iterations, options.milestones, options.init) == (None, None, None, "imagenet")
    assert (options.log_every, options.picture_every, options.precision) == (1, 1, "bf16")
    assert run("train", "--stage", "0", "--device", "cpu", "--precision", "bf16", "--no_amp").exit_code == 0
    assert asked.pop()[1].precision == "fp32"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--stage"),
        (["--stage", "1", "--chain", "s01"], "--chain"),
        (["--stage", "4"], "4"),
        (["--chain", "s02"], "s02"),
        (["--stage", "3", "--steps", "1,b"], "--steps"),
        (["--stage", "3", "-b", "0"], "batch"),
        (["--stage", "3", "--init", "zeros"], "zeros"),
    ],
)
def test_wrong_options_exit_2(words, named, run, asked):
    failed = run("train", *words, "--device", "cpu")
    assert failed.exit_code == 2
    assert named in failed.output
    assert asked == []


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.read = nn.Conv2d(4, 1, 3, padding=1)

    def encode_key(self, images):
        return list(images.unbind(1))

    def encode_value(self, state, image, masks, others):
        return masks

    def segment(self, state, memory, *, selector, empty_slots):
        masks = memory[0][1]
        probs = torch.cat([self.read(torch.cat((state, mask), 1)) for mask in masks.split(1, 1)], 1).sigmoid()
        probs = torch.cat((probs * selector[:, :, None, None], probs.new_zeros(len(probs), empty_slots, *probs.shape[2:])), 1)
        aggregated = aggregate_logits(probs)
        return Segmentation(aggregated, aggregated.softmax(1))


def test_a_stage_runs_and_goes_on(run, tmp_path, monkeypatch):
    monkeypatch.setattr(objective, "StcnBackbone", lambda network: network)
    monkeypatch.setattr(train_run, "start_network", lambda *args, **kwargs: Toy())
    write_davis(tmp_path / "D", ClipPlan(clips=1, frames=4, height=40, width=56))
    words = ["train", "--stage", "3", "--davis_root", tmp_path / "D", "--init", "random", "--size", "32", "-b", "1", "-i", "2"]
    words += ["--num_workers", "0", "--device", "cpu", "--id", "x", "-o", tmp_path / "saves", "--debug"]
    done = run(*words)
    assert done.exit_code == 0, done.output
    final = tmp_path / "saves" / "x_s3" / "x_s3_2.pth"
    assert str(final) in done.output
    assert final.is_file()
    stamp = final.stat().st_mtime_ns
    assert run(*words).exit_code == 0
    assert final.stat().st_mtime_ns == stamp
    other = run(*words, "--lr", "1")
    assert other.exit_code == 2
    assert "other settings" in other.output
    missing = run("train", "--stage", "0", "--init", "random", "-o", tmp_path / "saves", "--device", "cpu")
    assert missing.exit_code == 2
    assert "--static_root" in missing.output
