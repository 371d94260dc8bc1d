"""Every command through click's runner, and the same method through `vos run`."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from stcn_ttt import METHOD, SegmenterConfig, weights
from stcn_ttt.cli import main
from stcn_ttt.model import STCN
from vos_core.cli.main import main as vos_main
from vos_core.contract import BuildRequest, get_method
from vos_core.errors import WeightsError
from vos_core.io.masks import read_mask, write_mask
from vos_core.run.sinks import read_soft, write_soft

FRAMES = 4


@pytest.fixture
def run():
    def invoke(*args, command=main):
        return CliRunner().invoke(command, [str(arg) for arg in args])

    return invoke


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, random_network):
    """Untrained checkpoints in the official form: 5 and 4 input channels."""
    folder = tmp_path_factory.mktemp("weights")
    state = random_network.state_dict()
    torch.save(state, folder / "stcn.pth")
    state[weights.FIRST_CONV] = state[weights.FIRST_CONV][:, :4].clone()
    torch.save(state, folder / "stcn_s0.pth")
    return folder


def write_clip(frames_folder, masks_folder, *, annotated, names=None, seed=0):
    names = names or [f"{t:05d}" for t in range(FRAMES)]
    frames_folder.mkdir(parents=True)
    masks_folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for t, name in enumerate(names):
        cv2.imwrite(str(frames_folder / f"{name}.jpg"), rng.integers(0, 255, (32, 48, 3), dtype=np.uint8))
        labels = np.zeros((32, 48), np.uint8)
        for place, object_id in enumerate(annotated.get(t, ())):
            labels[5:20, 4 + 20 * place : 16 + 20 * place] = object_id
        if t in annotated:
            write_mask(masks_folder / f"{name}.png", labels)


def davis(root, *, part="trainval", split="val"):
    base = root / part
    for name in ("bear", "cat"):
        given = dict.fromkeys(range(FRAMES), (1, 2)) if part == "trainval" else {0: (1, 2)}
        write_clip(base / "JPEGImages" / "480p" / name, base / "Annotations" / "480p" / name, annotated=given)
    lists = base / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / f"{split}.txt").write_text("bear\ncat\n")
    return root


def test_infer_on_a_folder_resumes_and_equals_vos_run(run, tmp_path, checkpoints):
    for name, ids in (("a", (3,)), ("b", (9, 200))):
        write_clip(tmp_path / "in" / "JPEGImages" / name, tmp_path / "in" / "Annotations" / name, annotated={0: ids})
    common = ["--clips", tmp_path / "in", "--weights", checkpoints / "stcn.pth", "--device", "cpu"]
    words = ["--res", "-1", "--mem_every", "2", "--top", "10", "--include_last"]
    done = run("infer", *common, *words, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["method"] == "stcn-ttt"
    assert record["options"] == {"res": -1, "mem_every": 2, "top": 10, "include_last": True}
    assert record["settings"]["options"] == SegmenterConfig.model_validate(record["options"]).model_dump(mode="json")
    assert record["weights"]["trained"]
    masks = {path.relative_to(tmp_path / "out"): read_mask(path) for path in (tmp_path / "out").glob("*/*.png")}
    assert len(masks) == 2 * FRAMES
    assert set(np.unique(np.stack([m for p, m in masks.items() if p.parent.name == "b"]))) <= {0, 9, 200}
    stamp = (tmp_path / "out" / "a" / "00003.png").stat().st_mtime_ns
    assert run("infer", *common, *words, "--output", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "a" / "00003.png").stat().st_mtime_ns == stamp, "a repeated run keeps what is done"

    settings = ["--set", "res=-1", "--set", "mem_every=2", "--set", "top=10", "--set", "include_last=true"]
    other = run("run", "--method", "stcn-ttt", *common, *settings, "--output", tmp_path / "vos", command=vos_main)
    assert other.exit_code == 0, other.output
    for path, labels in masks.items():
        np.testing.assert_array_equal(read_mask(tmp_path / "vos" / path), labels)


def test_scales_become_sides(run, tmp_path, checkpoints):
    write_clip(tmp_path / "in" / "JPEGImages" / "a", tmp_path / "in" / "Annotations" / "a", annotated={0: (1,)})
    common = ["--clips", tmp_path / "in", "--model", checkpoints / "stcn.pth", "--device", "cpu", "--res", "32", "--amp"]
    for given, meant in (("32,48", [32, 48]), ("1.0,1.5", [32, 48])):
        out = tmp_path / given
        done = run("infer", *common, "--scales", given, "--flip", "-o", out)
        assert done.exit_code == 0, done.output
        record = json.loads((out / "run.json").read_text())
        assert record["options"]["scales"] == meant
        assert record["resume"]["settings"]["precision"] == "bf16"
        assert record["resume"]["settings"]["augmentation"]["flip"]
    for given in ("0.01,7", "big"):
        bad = run("infer", *common, "--scales", given, "-o", tmp_path / "bad")
        assert bad.exit_code == 2
        assert given in bad.output
    assert "differ" in run("infer", *common, "--weights", "stcn", "-o", tmp_path / "bad").output


@pytest.mark.parametrize("split", ["val", "testdev"])
def test_eval_davis(run, tmp_path, checkpoints, split):
    part, listed = ("trainval", "val") if split == "val" else ("test-dev", "test-dev")
    root = davis(tmp_path / "DAVIS", part=part, split=listed)
    (tmp_path / "names.txt").write_text("cat\n")
    common = [
        "eval",
        "--davis_path",
        root,
        "--split",
        split,
        "--model",
        checkpoints / "stcn_s0.pth",
        "--res",
        "32",
        "--device",
        "cpu",
    ]
    done = run(*common, "--video_set_filename", tmp_path / "names.txt", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "bear").exists(), "the list of clips counts on DAVIS, too"
    assert len(list((tmp_path / "out" / "cat").glob("*.png"))) == FRAMES
    options = json.loads((tmp_path / "out" / "run.json").read_text())["options"]
    assert options.get("mem_every") == (3 if split == "testdev" else None)
    (tmp_path / "names.txt").write_text("cow\n")
    assert "cow" in run(*common, "--video_set_filename", tmp_path / "names.txt", "-o", tmp_path / "out").output
    assert "cannot be read" in run(*common, "--video_set_filename", tmp_path / "none.txt", "-o", tmp_path / "out").output


def test_eval_davis_c(run, tmp_path, checkpoints):
    root = davis(tmp_path / "DAVIS")
    for name in ("bear", "cat"):
        write_clip(tmp_path / "C" / "low" / "contrast" / name, tmp_path / "unused" / name, annotated={}, seed=5)
    common = [
        "eval",
        "--corrupted_image_dir",
        tmp_path / "C" / "low" / "contrast",
        "--model",
        checkpoints / "stcn.pth",
        "--res",
        "32",
    ]
    done = run(*common, "--davis_path", root, "--device", "cpu", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "out" / "cat").glob("*.png"))) == FRAMES
    missing = run(*common, "-o", tmp_path / "other")
    assert missing.exit_code == 2
    assert "--davis_path" in missing.output


def test_eval_youtube(run, tmp_path, checkpoints):
    valid = tmp_path / "yv" / "valid"
    listed, dense = [f"{t:05d}" for t in (0, 5, 10)], [f"{t:05d}" for t in range(11)]
    write_clip(valid / "JPEGImages" / "v", valid / "Annotations" / "v", annotated={0: (2,), 1: (7,)}, names=listed)
    all_frames = tmp_path / "yv" / "all_frames" / "valid_all_frames" / "JPEGImages"
    write_clip(all_frames / "v", tmp_path / "unused", annotated={}, names=dense)
    for name in listed:  # the same pictures in both places
        (all_frames / "v" / f"{name}.jpg").write_bytes((valid / "JPEGImages" / "v" / f"{name}.jpg").read_bytes())
    objects = {"2": {"category": "cat", "frames": listed}, "7": {"category": "dog", "frames": listed[1:]}}
    (valid / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    common = ["eval", "--yv_path", tmp_path / "yv", "--model", checkpoints / "stcn.pth", "--res", "32", "--device", "cpu"]
    outputs = {"listed": (), "all": ("--output_all",), "needed": ("--req_frames", "--split", "val")}
    for name, extra in outputs.items():
        done = run(*common, *extra, "-o", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert sorted(path.stem for path in (tmp_path / "listed" / "v").glob("*.png")) == listed
    assert sorted(path.stem for path in (tmp_path / "all" / "v").glob("*.png")) == dense
    assert json.loads((tmp_path / "needed" / "run.json").read_text())["clips"][0]["frames"] == 3
    for name in listed:
        expected = read_mask(tmp_path / "all" / "v" / f"{name}.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "listed" / "v" / f"{name}.png"), expected)
        np.testing.assert_array_equal(read_mask(tmp_path / "needed" / "v" / f"{name}.png"), expected)
    assert run(*common, "--req_frames", "--output_all", "-o", tmp_path / "x").exit_code == 2


def test_eval_mose_and_generic(run, tmp_path, checkpoints):
    valid = tmp_path / "MOSE" / "valid"
    write_clip(valid / "JPEGImages" / "v", valid / "Annotations" / "v", annotated={0: (4,)})
    common = ["--model", checkpoints / "stcn.pth", "--res", "32", "--device", "cpu"]
    done = run("eval", "--dataset", "mose", "--data_path", tmp_path / "MOSE", *common, "-o", tmp_path / "mose")
    assert done.exit_code == 0, done.output
    done = run("eval", "--data_path", valid, *common, "-o", tmp_path / "generic")
    assert done.exit_code == 0, done.output
    for name in ("mose", "generic"):
        labels = read_mask(tmp_path / name / "v" / "00000.png")
        assert set(np.unique(labels)) == {0, 4}, "original ids are kept"
    assert run("eval", "--data_path", valid, "--split", "val", *common, "-o", tmp_path / "x").exit_code == 2
    assert run("eval", *common, "-o", tmp_path / "x").exit_code == 2


def test_convert(run, tmp_path, checkpoints):
    target = tmp_path / "s0.safetensors"
    done = run("convert", checkpoints / "stcn_s0.pth", target)
    assert done.exit_code == 0, done.output
    assert "widened from 4" in done.output
    network = weights.load_network(target)
    assert not network.state_dict()[weights.FIRST_CONV][:, 4].any()
    again = json.loads(run("convert", target, "--json").output)
    assert again == {"keys": 405, "parameters": 54_434_180, "input_channels": 5, "found_channels": 5, "target": None}
    run("convert", checkpoints / "stcn_s0.pth", tmp_path / "o.pth", "--start", "orthogonal")
    extra = weights.load_network(tmp_path / "o.pth").state_dict()[weights.FIRST_CONV][:, 4].flatten(1)
    torch.testing.assert_close(extra.T @ extra, torch.eye(49), atol=1e-5, rtol=0)
    kept = json.loads(run("convert", checkpoints / "stcn_s0.pth", "--single-object", "--json").output)
    assert kept["input_channels"] == 4
    refused = run("convert", checkpoints / "stcn.pth", "--single-object")
    assert refused.exit_code == 1
    assert "several objects" in refused.output
    torch.save({"a.weight": torch.zeros(2)}, tmp_path / "odd.pth")
    assert "no STCN checkpoint" in run("convert", tmp_path / "odd.pth").output
    assert "does not exist" in run("convert", tmp_path / "none.pth").output


def test_merge(run, tmp_path):
    first = np.asarray([[[0.5, 0.1]], [[0.3, 0.8]], [[0.2, 0.1]]], np.float32)  # background, 4, 9
    second = np.asarray([[[0.1, 0.1]], [[0.8, 0.6]], [[0.1, 0.3]]], np.float32)  # background, 9, 4
    for name, probs, ids in (("a", first, (4, 9)), ("b", second, (9, 4))):
        (tmp_path / name / "clip").mkdir(parents=True)
        write_soft(tmp_path / name / "clip" / "00000.npz", probs, ids)
    done = run("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert read_mask(tmp_path / "out" / "clip" / "00000.png").tolist() == [[9, 4]]
    assert read_soft(tmp_path / "a" / "clip" / "00000.npz")[1] == (4, 9)
    assert run("merge", tmp_path / "a", "-o", tmp_path / "out").exit_code == 2
    assert "no soft masks" in run("merge", tmp_path / "a", tmp_path / "none", "-o", tmp_path / "out").output
    write_soft(tmp_path / "b" / "clip" / "00001.npz", first, (4, 9))
    assert "00001" in run("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out").output
    write_soft(tmp_path / "a" / "clip" / "00001.npz", first, (4, 8))
    assert "objects" in run("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out").output


def test_method_entry(checkpoints):
    info = get_method("stcn-ttt")
    assert info is METHOD
    assert info.weights[info.variants[0]] == weights.NAMES
    assert {names[0] for names in info.weights.values()} == {"stcn", "stcn_s01", "stcn_s0"}
    info.register()
    info.register()
    built = info.build(BuildRequest(weights=checkpoints / "stcn_s0.pth", options={"top": 5, "scales": "480,600"}))
    assert built.config.top == 5
    assert [tracker.options.kernel for _, tracker in built._looks] == [False, True]
    same = info.build(BuildRequest(seed=3)), info.build(BuildRequest(seed=3))
    a, b = (next(segmenter._looks[0][1].network.parameters()) for segmenter in same)
    assert torch.equal(a, b)
    with pytest.raises(WeightsError, match="several objects"):
        weights.load_network(checkpoints / "stcn.pth", single_object=True)


def test_manifests_are_those_of_the_network():
    for name in weights.NAMES:
        with torch.device("meta"):
            network = STCN(single_object=name == "stcn_s0")
        found = {
            key: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in network.state_dict().items()
        }
        assert dict(weights.manifest(name)) == found


def test_importing_is_cheap():
    code = "import sys, stcn_ttt, stcn_ttt.cli.infer, stcn_ttt.cli.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_help(run):
    for command in ("infer", "eval", "convert", "merge"):
        shown = run(command, "--help")
        assert shown.exit_code == 0
        assert "Example:" in shown.output


def test_mask_of_another_size_is_named(run, tmp_path, checkpoints):
    write_clip(tmp_path / "in" / "JPEGImages" / "a", tmp_path / "in" / "Annotations" / "a", annotated={0: (1,)})
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "in" / "Annotations" / "a" / "00000.png")
    failed = run(
        "infer", "--clips", tmp_path / "in", "--model", checkpoints / "stcn.pth", "--device", "cpu", "-o", tmp_path / "out"
    )
    assert failed.exit_code != 0
    assert "00000.png" in failed.output
