"""Codes that are known: segmenting a video by them, and asking which of them claims an object."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from object_pursuit.claimed import claim_objects
from object_pursuit.cli import main
from object_pursuit.config import PRESETS
from object_pursuit.data.shapes import held_object
from object_pursuit.data.shapes_write import ShapePlan, write_shapes
from object_pursuit.latent import code_logits
from object_pursuit.model import Multinet, build_encoder, build_hypernet
from object_pursuit.parts import load_parts, seeded_parts
from object_pursuit.pursuit.reidentify import score_codes
from object_pursuit.quality import dice
from object_pursuit.segmenter import frozen_encoder
from vos_core.errors import UsageError, WeightsError
from vos_core.io.masks import read_mask


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    torch.manual_seed(1)
    config = PRESETS["tiny"]
    path = tmp_path_factory.mktemp("known") / "joint.pth"
    torch.save(Multinet(3, build_hypernet(config), build_encoder(config)).state_dict(), path)
    return path


@pytest.fixture
def frames(tmp_path):
    rng = np.random.default_rng(0)
    for t in range(10):
        path = tmp_path / "clip" / f"{t:05d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
    return tmp_path / "clip"


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def test_segment_by_codes_and_resume(joint, frames, tmp_path):
    args = ("segment", joint, "--video", frames, "--resize", 32, 32, "--device", "cpu", "--output", tmp_path / "out")
    done = run(*args, "--code", "object 2", "--code", 0, "--json")
    assert done.exit_code == 0, done.output + done.stderr
    assert json.loads(done.stdout)["codes"] == {"1": "object 2", "2": "object 0"}
    first = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}
    assert len(first) == 10
    masks = [read_mask(path) for path in sorted((tmp_path / "out").glob("*.png"))]
    assert all(mask.shape == (40, 56) and mask.max() <= 2 for mask in masks)
    parts = load_parts(joint)
    views = torch.stack(
        [
            torch.from_numpy(np.array(Image.open(p).resize((32, 32), 3))).permute(2, 0, 1) / 255
            for p in sorted(frames.iterdir())[:8]
        ]
    )
    logits = code_logits(parts.hypernet, frozen_encoder(parts.encoder, "batch"), parts.codes[[2, 0]], views)[3]
    wide = torch.nn.functional.interpolate(logits[None], (40, 56), mode="bilinear")[0]
    expected = torch.cat((torch.zeros(1, 40, 56), wide)).argmax(0).numpy()
    assert (expected == masks[3]).mean() > 0.999
    (tmp_path / "out/00009.png").unlink()
    kept = (tmp_path / "out/00001.png").stat().st_mtime_ns
    assert run(*args, "--code", "object 2", "--code", 0).exit_code == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.png")} == first
    assert (tmp_path / "out/00001.png").stat().st_mtime_ns == kept
    other = run(*args, "--code", 1)
    assert other.exit_code == 2
    assert "other codes or settings" in other.stderr
    assert "no codes are called 'mug'" in run(*args, "--code", "mug").stderr
    assert run(*args, "--code", 1, "--code", 1).exit_code == 2


def test_claims_equal_each_code_alone():
    parts = seeded_parts(PRESETS["tiny"])
    data = held_object(0, 6, size=32)
    (claim,) = claim_objects(parts, [data], tau=0.0, batch=6)
    encoder = frozen_encoder(parts.encoder, "batch")
    samples = data.samples
    alone = [
        float(dice((code_logits(parts.hypernet, encoder, code[None], samples.images) > 0).float(), samples.masks).mean())
        for code in parts.codes
    ]
    assert claim.dice == pytest.approx(max(alone), abs=2e-3)
    assert claim.code == parts.names[int(np.argmax(alone))]
    assert claim.seen
    assert claim.correct is None, "nobody knows what seeded codes were learned from"
    assert not claim_objects(parts, [data], tau=0.9999, batch=6)[0].seen


def test_claims_without_an_incomplete_last_batch():
    parts = seeded_parts(PRESETS["tiny"])
    data = held_object(0, 6, size=32)
    kept, dropped = (claim_objects(parts, [data], tau=0.0, batch=4, partial=partial)[0].dice for partial in ("keep", "drop"))
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    full = score_codes(parts.codes, data, [order[:4]], parts.hypernet, frozen_encoder(parts.encoder, "batch"), dropout="never")
    assert dropped == max(full)
    assert dropped != kept
    with pytest.raises(UsageError, match="fill no batch of 7"):
        claim_objects(parts, [data], tau=0.0, batch=7, partial="drop")


@pytest.mark.parametrize(
    ("own", "other", "correct"), [("obj_000", None, True), ("obj_001", None, False), (None, "obj_000", False), (None, "x", None)]
)
def test_a_claim_is_correct_false_or_unknown(own, other, correct):
    parts = seeded_parts(PRESETS["tiny"])
    data = held_object(0, 6, size=32)
    best = parts.names.index(claim_objects(parts, [data], tau=0.0)[0].code)
    objects = [other] * len(parts.names)
    objects[best] = own
    assert claim_objects(replace(parts, objects=tuple(objects)), [data], tau=0.0)[0].correct is correct


def test_names_of_joint_codes_are_those_of_pretraining(joint, tmp_path):
    path = tmp_path / "joint.pth"
    path.write_bytes(joint.read_bytes())
    rows = [{"index": index, "data_dir": f"set/mug_{index}"} for index in (1, 0, 2)]
    (tmp_path / "pretrain_info.json").write_text(json.dumps(rows))
    parts = load_parts(path)
    assert parts.objects == ("mug_0", "mug_1", "mug_2")
    assert parts.names == ("object 0 mug_0", "object 1 mug_1", "object 2 mug_2")
    (tmp_path / "pretrain_info.json").write_text(json.dumps(rows[:2]))
    assert load_parts(path).objects == (None, None, None), "another checkpoint's records"
    (tmp_path / "pretrain_info.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_parts(path)


def test_reid_command(joint, tmp_path):
    write_shapes(tmp_path / "set", ShapePlan(pretrain=0, stream=2, images=3, heldout=0))
    done = run("reid", joint, "--data", tmp_path / "set/stream", "--resize", 32, 32, "--thres", 0, "--device", "cpu", "--json")
    assert done.exit_code == 0, done.output + done.stderr
    told = json.loads(done.stdout)
    assert told["objects"] == told["seen"] + told["unseen"] == 2
    assert (told["correct"], told["false"], told["unknown"]) == (0, 0, told["seen"]), "no record tells what codes are of"
    log = tmp_path / "log_epoch_0001_acc_0.7.json"
    log.write_text(json.dumps([{"data_dir": "any/obj_000", "acc": 0.8}, {"data_dir": "any/obj_001", "acc": 0.9}]))
    ask = ("reid", joint, "--data", tmp_path / "set/stream", "--resize", 32, 32, "--device", "cpu", "--json", "--acc", log)
    assert [row["name"] for row in json.loads(run(*ask).stdout)["claims"]] == ["obj_001"]
    assert json.loads(run(*ask, "--min-acc", 0.7).stdout)["objects"] == 2
    assert "above 0.95" in run(*ask, "--min-acc", 0.95).stderr
    log.write_text("[1]")
    assert "no evaluation of pretrain" in run(*ask).stderr
    plain = run("reid", joint, "--data", tmp_path / "set/stream", "--resize", 32, 32, "--device", "cpu")
    assert "obj_001" in plain.stdout
    assert "2 objects" in plain.stdout
    assert "does not exist" in run("reid", joint, "--data", tmp_path / "none").stderr
