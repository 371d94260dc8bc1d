"""pursue, evaluate, pretrain, oneshot and remove-redundancy through click's runner, errors included."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from object_pursuit import evaluate
from object_pursuit.cli import main
from object_pursuit.data.shapes_write import ShapePlan, write_shapes
from object_pursuit.segmenter import frozen_encoder
from object_pursuit.weights import code_files, read_code

FAST = ["--set", "base_epochs=1", "--set", "express_epochs=1", "--set", "batch=4"]


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    root = tmp_path_factory.mktemp("objects")
    write_shapes(root, ShapePlan(pretrain=3, stream=2, images=6, heldout=0, size=64))
    return root


@pytest.fixture
def run():
    return lambda *args: CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def joint(objects, tmp_path_factory):
    """A joint checkpoint of three objects, trained for two epochs."""
    out = tmp_path_factory.mktemp("joint")
    words = ["pretrain", "--preset", "tiny", "--data", objects / "pretrain", "--out", out, "--epochs", 2, "--batch_size", 3]
    done = CliRunner().invoke(main, [str(w) for w in [*words, "--eval_step", 1, "--save_ckpt", "--num-workers", 0, "--json"]])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["objects"] == 3
    assert [epoch for epoch, _ in told["evaluations"]] == [1, 2]
    return out


def test_pretrain_writes_what_later_stages_read(joint):
    assert {"pretrain_best.pth", "pretrain_last.pth", "pretrain_info.json", "eval", "run.json", "log.jsonl"} <= {
        path.name for path in joint.iterdir()
    }
    state = torch.load(joint / "pretrain_last.pth", weights_only=True)
    assert state["z"].shape == (3, 24)
    rows = json.loads((joint / "pretrain_info.json").read_text())
    assert [set(row) for row in rows] == [{"index", "obj_name", "data_dir", "eval_len", "acc"}] * 3


def test_pursue_from_a_joint_checkpoint_resume_and_evaluate(run, objects, joint, tmp_path, monkeypatch):
    file, out = joint / "pretrain_last.pth", tmp_path / "run"
    words = ["pursue", "--preset", "tiny", "--data", objects / "stream", "--out", out, "--thres", 0.0]
    words += ["--bases", file, "-hypernet", file, "--backbone", file, "--zs", "None", *FAST]
    dry = run(*words, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.output
    assert len(json.loads(dry.stdout)["stream"]) == 2
    assert not out.exists()
    done = run(*words, "--eval", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["rounds"] == 2
    assert told["bases"] == 3
    assert set(told["evaluation"]) == {"iou_batch", "jaccard", "dice"}
    assert json.loads((out / "run.json").read_text())["sha256"]["bases"]
    again = run(*words, "--json")
    assert json.loads(again.stdout)["rounds"] == 2
    other = run(*words, "--thres", 0.9)
    assert other.exit_code == 2
    assert "other settings (tau)" in other.output
    scored = run("evaluate", out, "--data", objects / "stream", "--dataset", "iThor", "--resize", 64, 64, "--json")
    assert scored.exit_code == 0, scored.output
    batch = json.loads(scored.stdout)
    assert len(batch["objects"]) == told["objects"] - 3
    assert batch["mean"] == told["evaluation"]
    words = ["evaluate", out, "--data", objects / "stream", "--dataset", "iThor", "--resize", 64, 64, "--json"]
    norms = []
    monkeypatch.setattr(evaluate, "frozen_encoder", lambda encoder, norm: norms.append(norm) or frozen_encoder(encoder, norm))
    assert run(*words, "--encoder-norm", "running").exit_code == 0
    assert norms == ["running"]


def test_pursue_draws_its_own_objects(run, tmp_path):
    done = run("pursue", "--preset", "tiny", "--out", tmp_path / "run", "--dry-run")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.split()) == 10, "nine objects and a repeat"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["pursue"], "--data is missing"),
        (["pursue", "--preset", "tiny", "--dataset", "KITTI"], "never had a reader"),
        (["pursue", "--preset", "tiny", "--set", "betta=1"], "did you mean beta"),
        (["pursue", "--preset", "tiny", "--bases", "nowhere"], "bases nowhere do not exist"),
        (["pursue", "--preset", "tiny", "--hypernet", "nowhere.pth"], "nowhere.pth does not exist"),
        (["pretrain"], "--data is missing"),
        (["pretrain", "--preset", "tiny", "--start", "a.pth", "--backbone", "b.pth"], "--start brings the encoder"),
        (
            ["pretrain", "--data", "a", "--data", "b", "--dataset", "iThor", "--dataset", "VOS", "--dataset", "DAVIS"],
            "one --dataset",
        ),
        (["oneshot"], "--imgs is missing"),
        (["remove-redundancy"], "--bases is missing"),
        (["evaluate", "nowhere", "--preset", "tiny"], "nowhere"),
    ],
)
def test_wrong_use_is_told(run, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code in (1, 2)
    assert told in done.output
    assert "Traceback" not in done.output


def test_ctrl_c_keeps_finished_rounds(run, joint, objects, tmp_path, monkeypatch):
    from object_pursuit.pursuit import loop

    real, calls = loop.fit_object, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    file, out = joint / "pretrain_last.pth", tmp_path / "run"
    words = ["pursue", "--preset", "tiny", "--data", objects / "stream", "--out", out, "--thres", 0.0, "--no-repeats"]
    words += ["--bases", file, "--hypernet", file, "--backbone", file, "--set", "tau=0.0", *FAST]
    monkeypatch.setattr(loop, "fit_object", interrupted)
    monkeypatch.setattr(loop.Pursuit, "_reidentify", lambda *_: (None, None))
    done = run(*words)
    assert done.exit_code == 130, done.output
    assert "interrupted in round 2 of 2; 1 rounds are kept" in done.output
    again = run(*words, "--json")
    assert json.loads(again.stdout)["rounds"] == 2


def test_fits_refuse_fp16(run, joint, objects, tmp_path):
    file = joint / "pretrain_last.pth"
    words = ["pursue", "--preset", "tiny", "--data", objects / "stream", "--out", tmp_path / "run", "--precision", "fp16"]
    done = run(*words, "--bases", file, "--hypernet", file, "--backbone", file)
    assert done.exit_code == 2
    assert "bf16" in done.output


def test_truncated_weights_are_named(run, joint, objects, tmp_path):
    cut = tmp_path / "cut.pth"
    cut.write_bytes((joint / "pretrain_last.pth").read_bytes()[:5000])
    done = run("pursue", "--preset", "tiny", "--data", objects / "stream", "--hypernet", cut, "--out", tmp_path / "run")
    assert done.exit_code == 1
    assert "cut.pth" in done.output
    assert "truncated" in done.output


def test_a_file_of_another_network_is_refused_with_its_differences(run, joint, tmp_path):
    done = run(
        "pursue", "--preset", "backbone", "--hypernet", joint / "pretrain_last.pth", "--data", tmp_path, "--dataset", "iThor"
    )
    assert done.exit_code in (1, 2)
    assert "pretrain_last.pth" in done.output or "object folder" in done.output


@pytest.mark.parametrize("model", ["coeffnet", "singlenet", "deeplab", "unet"])
def test_oneshot_models(run, joint, objects, tmp_path, model):
    folder = next((objects / "stream").iterdir())
    side = 64 if model in ("coeffnet", "singlenet") else 32  # comparators have millions of parameters
    words = ["oneshot", "--imgs", folder / "imgs", "--masks", folder / "masks", "--model", model, "--dataset", "iThor"]
    words += [
        "--epochs",
        2,
        "--eval_step",
        1,
        "--batch_size",
        3,
        "--save_ckpt",
        "--save_viz",
        "--resize",
        side,
        side,
        "--out",
        tmp_path,
    ]
    file = joint / "pretrain_last.pth"
    if model in ("coeffnet", "singlenet"):
        words += ["--bases", file, "--hypernet", file, "--backbone", file]
    done = run(*words, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert len(told["trained"]) == 1
    assert 0 <= told["jaccard"] <= 1
    assert len(list((tmp_path / "viz_pred").glob("*.png"))) == 6
    state = torch.load(tmp_path / "ckpt_best.pth", weights_only=True)
    keys = {"coeffnet": "coeffs", "singlenet": "z", "deeplab": "decoder.conv1.weight", "unet": "outc.conv.weight"}
    assert keys[model] in state


def test_oneshot_needs_the_object_in_sight(run, objects, tmp_path):
    folder = next((objects / "stream").iterdir())
    words = ["oneshot", "--imgs", folder / "imgs", "--masks", folder / "masks", "--model", "unet", "--label", 9]
    done = run(*words, "--resize", 64, 64, "--out", tmp_path)
    assert done.exit_code == 2
    assert "none of the 1 masks to train on shows the object" in done.output


def test_oneshot_interrupted(run, objects, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("object_pursuit.cli.oneshot_run.fit_oneshot", interrupted)
    folder = next((objects / "stream").iterdir())
    words = ["oneshot", "--imgs", folder / "imgs", "--masks", folder / "masks", "--model", "unet", "--out", tmp_path]
    done = run(*words)
    assert done.exit_code == 130
    assert "a fit is not resumed" in done.output


def test_oneshot_without_further_masks_says_so(run, joint, objects, tmp_path):
    folder = next((objects / "stream").iterdir())
    mask = sorted((folder / "masks").iterdir())[0]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / mask.name).write_bytes(mask.read_bytes())
    file = joint / "pretrain_last.pth"
    words = ["oneshot", "--imgs", folder / "imgs", "--masks", tmp_path / "masks", "--bases", file, "--hypernet", file]
    done = run(*words, "--backbone", file, "--epochs", 1, "--resize", 64, 64, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "every image that has a mask was trained on" in done.output


def test_remove_redundancy(run, joint, objects, tmp_path):
    file = joint / "pretrain_last.pth"
    records = tmp_path / "records.json"
    rows = json.loads((joint / "pretrain_info.json").read_text())
    records.write_text(json.dumps([{**row, "acc": 0.9 - 0.1 * place} for place, row in enumerate(rows)]))
    words = ["remove-redundancy", "--bases", file, "--hypernet", file, "--backbone", file, "--records", records]
    words += ["--data", objects / "pretrain", "--epochs", 1, "--batch_size", 4, "--resize", 64, 64]
    done = run(*words, "--thres", 0.0, "--out", tmp_path / "none", "--json")
    assert done.exit_code == 0, done.output
    reasons = [row["reason"] for row in json.loads(done.stdout)["bases"]]
    assert reasons[-1] == "base", "the last one has no others to be expressed by"
    assert [row["index"] for row in json.loads(done.stdout)["bases"]] == [2, 1, 0], "worst first"
    assert reasons.count("base") == len(code_files(tmp_path / "none"))
    done = run(*words, "--thres", 1.0, "--out", tmp_path / "all", "--json")
    rows = json.loads(done.stdout)["bases"]
    assert [row["reason"] for row in rows] == ["unqualified"] * 3
    assert [row["acc"] for row in rows] == sorted(row["acc"] for row in rows)
    again = run(*words, "--thres", 0.0, "--out", tmp_path / "none")
    assert again.exit_code == 2
    assert "holds bases already" in again.output
    first = json.loads((tmp_path / "none/base_info.json").read_text())
    kept = [row for row in first if row["valid"]]
    codes = torch.load(file, weights_only=True)["z"]
    for row in kept:
        assert torch.equal(read_code(tmp_path / "none" / row["base_file"]), codes[row["index"]])
