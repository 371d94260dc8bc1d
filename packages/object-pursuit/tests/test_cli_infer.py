"""`object-pursuit infer` and the same method through `vos run`: files, resume, weights of every kind, clear errors."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from object_pursuit.cli import main
from object_pursuit.config import PRESETS
from object_pursuit.model import Multinet, build_encoder, build_hypernet
from object_pursuit.parts import load_parts
from vos_core.cli.main import main as vos_main
from vos_core.errors import UsageError, WeightsError
from vos_core.io.masks import read_mask, write_mask

FAST = ("--steps", 1, "--resize", 32, 32, "--device", "cpu", "--threads", 1)


@pytest.fixture
def run():
    return lambda *args, command=main: CliRunner().invoke(command, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A joint checkpoint of the tiny network with five objects."""
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    network = Multinet(5, build_hypernet(config), build_encoder(config))
    path = tmp_path_factory.mktemp("weights") / "joint.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def pursued(tmp_path_factory, joint):
    """The output folder of a pursuit: checkpoint/, zs/ and Bases/ with records."""
    out = tmp_path_factory.mktemp("pursued")
    state = torch.load(joint)
    for folder in ("checkpoint", "zs", "Bases"):
        (out / folder).mkdir()
    torch.save(
        {k.removeprefix("hypernet."): v for k, v in state.items() if k.startswith("hypernet.")}, out / "checkpoint/hypernet.pth"
    )
    torch.save(
        {f"module.{k.removeprefix('backbone.')}": v for k, v in state.items() if k.startswith("backbone.")},
        out / "checkpoint/backbone.pth",
    )
    for index in range(3):
        torch.save({"z": state["z"][index]}, out / "zs" / f"z_{index:04d}.pth")
    torch.save({"z": state["z"][0], "weights": {"a": torch.zeros(1)}}, out / "Bases/base_0000.pth")
    (out / "z_info.json").write_text(json.dumps([{"index": 2, "data_dir": "/data/mug", "z_file": "z_0002.pth"}]))
    return out


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    for name, ids in (("a", (3,)), ("b", (9, 200))):
        for t in range(4):
            path = tmp_path / "in/JPEGImages" / name / f"{t:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(path)
        labels = np.zeros((40, 60), np.uint8)
        for place, object_id in enumerate(ids):
            labels[5:30, 4 + 25 * place : 20 + 25 * place] = object_id
        write_mask(tmp_path / "in/Annotations" / name / "00000.png", labels)
    return tmp_path / "in"


def test_masks_at_full_size_with_the_clip_s_ids(run, tmp_path, clips, joint):
    done = run("infer", "--clips", clips, "--weights", joint, *FAST, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output + done.stderr
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["method"] == "object-pursuit"
    assert all(clip["seconds_adapt"] > 0 for clip in record["clips"])
    for name, ids in (("a", {0, 3}), ("b", {0, 9, 200})):
        masks = [read_mask(path) for path in sorted((tmp_path / "out" / name).glob("*.png"))]
        assert len(masks) == 4
        assert all(mask.shape == (40, 60) and set(np.unique(mask).tolist()) <= ids for mask in masks)
        assert (masks[0] == read_mask(clips / "Annotations" / name / "00000.png"))[
            read_mask(clips / "Annotations" / name / "00000.png") > 0
        ].all()
    # The same through vos run, after losing one clip: the other is kept.
    first = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    for path in (tmp_path / "out/a").glob("*.png"):
        path.unlink()
    settings = ("--set", "steps=1", "--set", "resize=[32, 32]", "--device", "cpu", "--threads", 1)
    again = run(
        "run",
        "--method",
        "object-pursuit",
        "--clips",
        clips,
        "--weights",
        joint,
        *settings,
        "--output",
        tmp_path / "out",
        command=vos_main,
    )
    assert again.exit_code == 0, again.output + again.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.png")} == first


def test_augmented_and_untrained(run, tmp_path, clips):
    done = run(
        "infer", "--clips", clips, "--only", "b", "--weights", "random", "--variant", "tiny", "--flip", "--model", "singlenet",
        "--window", "square", *FAST, "--output", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output + done.stderr
    assert "Untrained weights" in done.stderr
    assert len(list((tmp_path / "out/b").glob("*.png"))) == 4


def test_a_pursuit_s_checkpoint_finds_its_parts(run, tmp_path, clips, pursued):
    done = run(
        "infer",
        "--clips",
        clips,
        "--only",
        "a",
        "--weights",
        pursued / "checkpoint/hypernet.pth",
        *FAST,
        "--output",
        tmp_path / "out",
    )
    assert done.exit_code == 0, done.output + done.stderr
    parts = load_parts(pursued / "checkpoint/hypernet.pth")
    assert parts.names == ("base_0000",)
    assert load_parts(pursued).names == ("z_0000", "z_0001", "z_0002 mug")
    assert load_parts(pursued, codes=pursued / "zs").codes.shape == (3, 24)
    assert parts.encoder is not None


def test_joint_checkpoint_in_parts(joint, pursued):
    parts = load_parts(joint)
    assert parts.names == tuple(f"object {i}" for i in range(5))
    assert torch.equal(parts.codes, torch.load(joint)["z"])
    assert torch.equal(load_parts(pursued).codes, parts.codes[:3])


def test_bad_weights_are_explained(run, tmp_path, clips, joint, pursued):
    places = iter(range(99))

    def failing(*args):
        done = run("infer", "--clips", clips, *FAST, "--output", tmp_path / f"out{next(places)}", *args)
        assert done.exit_code in (1, 2), done.output
        return done.stderr

    (tmp_path / "cut.pth").write_bytes(joint.read_bytes()[:5000])
    assert "cut.pth" in failing("--weights", tmp_path / "cut.pth")
    state = torch.load(joint)
    torch.save({k: v for k, v in state.items() if "conv1.bn_bias" not in k or "aspp" not in k}, tmp_path / "less.pth")
    assert "less.pth" in failing("--weights", tmp_path / "less.pth")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pth")
    assert "holds no hypernetwork" in failing("--weights", tmp_path / "other.pth")
    assert "no network of variant 'full'" in failing("--weights", joint, "--variant", "full")
    assert "object-pursuit" in failing("--weights", "auto", "--variant", "tiny")
    assert "do not exist" in failing("--weights", joint, "--bases", tmp_path / "nowhere")
    assert "unknown option 'stepz'" in failing("--weights", joint, "--set", "stepz=3")
    lonely = tmp_path / "lonely/checkpoint/hypernet.pth"
    lonely.parent.mkdir(parents=True)
    lonely.write_bytes((pursued / "checkpoint/hypernet.pth").read_bytes())
    assert "comes without an encoder" in failing("--weights", lonely)
    with pytest.raises(UsageError, match="do not exist"):
        load_parts(tmp_path / "nowhere")
    with pytest.raises(WeightsError, match=r"holds no checkpoint/hypernet\.pth"):
        load_parts(clips)
    torch.save({"z": torch.zeros(9)}, tmp_path / "z.pth")
    with pytest.raises(WeightsError, match="have 9 numbers"):
        load_parts(joint, codes=tmp_path / "z.pth")


def test_a_bad_frame_fails_its_clip_alone(run, tmp_path, clips, joint):
    broken = clips / "JPEGImages/a/00002.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    done = run("infer", "--clips", clips, "--weights", joint, *FAST, "--output", tmp_path / "out")
    assert done.exit_code == 1
    assert "00002.jpg" in done.stderr
    assert len(list((tmp_path / "out/b").glob("*.png"))) == 4
