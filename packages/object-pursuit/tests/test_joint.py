"""Joint pretraining: the golden steps, going on bit for bit, several ranks, evaluations that disturb nothing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch

from object_pursuit.config import PRESETS
from object_pursuit.data.shapes import held_object
from object_pursuit.joint import (
    JointBatch,
    JointOptions,
    JointPass,
    batches_per_epoch,
    build_joint,
    evaluate_joint,
    joint_stream,
    train_joint,
)
from object_pursuit.samples import HeldImages, Samples
from vos_core.errors import UsageError
from vos_core.testing import run_ranks

FAST = JointOptions(epochs=3, batch_size=3, eval_step=2, seed=1)


def objects(count=3, images=6):
    return [held_object(i, images, seed=2) for i in range(count)]


def network(options=FAST, classes=3):
    torch.manual_seed(0)
    return build_joint(PRESETS["tiny"], options, classes)


def test_batches_hold_one_object_and_epochs_differ():
    stream = joint_stream(objects(), FAST)
    first = [next(stream) for _ in range(6)]
    assert sorted(batch.index for batch in first) == [0, 0, 1, 1, 2, 2]
    assert all(batch.samples.images.shape == (3, 3, 64, 64) for batch in first)
    second = [next(stream) for _ in range(6)]
    assert [batch.index for batch in first] != [batch.index for batch in second] or any(
        not torch.equal(a.samples.images, b.samples.images) for a, b in zip(first, second, strict=True)
    )
    threaded = joint_stream(objects(), FAST, start=7, threads=2)
    assert torch.equal(next(threaded).samples.images, second[1].samples.images)


def test_small_objects_get_small_batches_and_single_images_none():
    few = [held_object(0, 2, seed=1), held_object(1, 1, seed=1)]
    assert batches_per_epoch(few, FAST) == 1
    assert next(joint_stream(few, FAST)).samples.images.shape[0] == 2
    with pytest.raises(UsageError, match="fewer batches than there are ranks"):
        batches_per_epoch(few[1:], FAST)


def test_a_run_in_parts_equals_one_in_one_go(tmp_path):
    train_joint(network(), objects(), FAST, out=tmp_path / "whole")
    half = FAST.model_copy(update={"epochs": 1})
    train_joint(network(half), objects(), half, out=tmp_path / "parts")
    with pytest.raises(UsageError, match="other settings"):
        train_joint(network(), objects(), FAST, out=tmp_path / "parts")
    for path in (tmp_path / "parts").glob("checkpoint_*.pth"):
        state = torch.load(path, weights_only=True)
        state["fingerprint"]["epochs"] = 3
        torch.save(state, path)
    for path in (tmp_path / "parts/eval").iterdir():
        path.unlink()  # the short run scored its last epoch, which the long one does not
    train_joint(network(), objects(), FAST, out=tmp_path / "parts")
    one, other = (torch.load(tmp_path / name / "pretrain_last.pth", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


def test_evaluating_changes_nothing():
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    rows = evaluate_joint(model, objects(), FAST)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [row["eval_len"] for row in rows] == [6, 6, 6]
    fewer = evaluate_joint(model, objects(), FAST.model_copy(update={"eval_n": 2}))
    assert [row["eval_len"] for row in fewer] == [2, 2, 2]


def test_training_lowers_the_loss(tmp_path):
    options = FAST.model_copy(update={"epochs": 6, "lr": 1e-3})
    train_joint(network(options), objects(), options, out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {"pretrain_best.pth", "pretrain_last.pth", "pretrain_info.json"} <= {path.name for path in tmp_path.iterdir()}


def test_the_shared_comparator_trains_too():
    torch.manual_seed(0)
    model = build_joint(PRESETS["tiny"], JointOptions(model="MultiDeeplab"), 3)
    assert all(name.startswith("main_net.") for name in model.state_dict())
    images = torch.rand(2, 3, 64, 64)
    loss = JointPass(model)(images, (images[:, :1] > 0.5).float(), 1)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_frozen_encoders_stay(tmp_path):
    options = FAST.model_copy(update={"epochs": 1, "freeze_backbone": True})
    model = network(options)
    before = {key: value.clone() for key, value in model.backbone.named_parameters()}
    train_joint(model, objects(), options, out=tmp_path)
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.named_parameters())


SCRIPT = """
import sys
import torch
from object_pursuit.config import PRESETS
from object_pursuit.data.shapes import held_object
from object_pursuit.joint import JointOptions, build_joint, train_joint
from pathlib import Path
from vos_core.training.distributed import ranks_from_environment

def rank():
    torch.set_num_threads(1)
    options = JointOptions(epochs=1, batch_size=3, seed=1, freeze_backbone=True)
    torch.manual_seed(0)
    network = build_joint(PRESETS["tiny"], options, 3)
    network.dropout = "never"
    with ranks_from_environment("cpu") as ranks:
        train_joint(network, [held_object(i, 6, seed=2) for i in range(3)], options, out=Path(sys.argv[1]), ranks=ranks)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")
def test_two_ranks_equal_one_process_that_accumulates(tmp_path):
    run_ranks(SCRIPT, tmp_path / "two")
    options = JointOptions(epochs=1, batch_size=3, seed=1, accumulate=2, freeze_backbone=True)
    alone = network(options)
    alone.dropout = "never"
    train_joint(alone, objects(), options, out=tmp_path / "one")
    one, two = (torch.load(tmp_path / name / "pretrain_last.pth", weights_only=True) for name in ("one", "two"))
    for key, value in one.items():
        if key.startswith(("z", "hypernet")):
            torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_batches_are_what_samples_say():
    samples = Samples(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))
    data = HeldImages("x", samples)
    batch = next(joint_stream([data], FAST))
    assert isinstance(batch, JointBatch)
    assert np.isclose(float(batch.samples.images.sum()), 0)
