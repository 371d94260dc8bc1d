"""`inspect` says what each kind of file is; `gen-bases` writes bases that read back."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

from object_pursuit.cli import main
from object_pursuit.config import PRESETS
from object_pursuit.model import Coeffnet, Multinet, Singlenet, UNet, build_encoder, build_hypernet
from object_pursuit.weights import read_bases, read_code_weights


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    hypernet, encoder = build_hypernet(config), build_encoder(config)
    joint = Multinet(3, hypernet, encoder)
    torch.save(joint.state_dict(), root / "joint.pth")
    torch.save(Singlenet(hypernet, encoder).state_dict(), root / "single.pth")
    torch.save(Coeffnet(hypernet, None, bases=joint.z.detach()).state_dict(), root / "coeff.pth")
    torch.save(hypernet.state_dict(), root / "hypernet.pth")
    torch.save({f"module.{key}": value for key, value in encoder.state_dict().items()}, root / "backbone.pth")
    torch.save({"z": joint.z[0].detach()}, root / "z.pth")
    torch.save({"coeffs": torch.zeros(3)}, root / "c.pth")
    torch.save(UNet().state_dict(), root / "unet.pth")
    return root


def run(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def told(path):
    done = run("inspect", path, "--json")
    assert done.exit_code == 0, done.output + done.stderr
    return json.loads(done.stdout)


def test_every_kind(files):
    kinds = {path.stem: told(path)["kind"] for path in files.glob("*.pth")}
    assert kinds == {
        "joint": "joint checkpoint",
        "single": "one-shot network (singlenet)",
        "coeff": "one-shot network (coeffnet)",
        "hypernet": "hypernetwork",
        "backbone": "encoder",
        "z": "code",
        "c": "coefficients",
        "unet": "comparator",
    }
    joint = told(files / "joint.pth")
    assert (joint["preset"], joint["z_dim"], joint["codes"], joint["encoder"]) == ("tiny", 24, 3, True)
    assert told(files / "z.pth")["size"] == 24


def test_folders(files, tmp_path):
    done = run("gen-bases", files / "joint.pth", tmp_path / "Bases", "--json")
    assert done.exit_code == 0, done.output
    assert len(json.loads(done.stdout)["files"]) == 3
    found = told(tmp_path / "Bases")
    assert (found["kind"], found["codes"], found["z_dim"]) == ("folder of codes", 3, 24)
    state = torch.load(files / "joint.pth")
    assert torch.equal(read_bases(tmp_path / "Bases"), state["z"])
    weights = read_code_weights(tmp_path / "Bases/base_0001.pth")
    hypernet = build_hypernet(PRESETS["tiny"])
    hypernet.load_state_dict(
        {key.removeprefix("hypernet."): value for key, value in state.items() if key.startswith("hypernet.")}
    )
    for name, value in hypernet(state["z"][1]).items():
        torch.testing.assert_close(weights[name], value)
    before = (tmp_path / "Bases/base_0001.pth").stat().st_mtime_ns
    assert run("gen-bases", files / "joint.pth", tmp_path / "Bases").exit_code == 0
    assert (tmp_path / "Bases/base_0001.pth").stat().st_mtime_ns == before
    assert run("gen-bases", files / "joint.pth", tmp_path / "bare", "--codes-only").exit_code == 0
    assert read_code_weights(tmp_path / "bare/base_0000.pth") is None


def test_a_pursuit(files, tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for name in ("hypernet", "backbone"):
        (tmp_path / "checkpoint" / f"{name}.pth").write_bytes((files / f"{name}.pth").read_bytes())
    (tmp_path / "zs").mkdir()
    (tmp_path / "zs/z_0000.pth").write_bytes((files / "z.pth").read_bytes())
    rows = [{"round": 1, "verdict": "new_base"}, {"round": 2, "verdict": "seen"}, {"round": 3, "verdict": "seen"}]
    (tmp_path / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = told(tmp_path)
    assert found["kind"] == "pursuit"
    assert (found["codes"], found["bases"], found["rounds"], found["seen"], found["new_base"]) == (1, 0, 3, 2, 1)
    assert "pursuit" in run("inspect", tmp_path).stdout


def test_pretraining(files, tmp_path):
    for name in ("checkpoint_8.pth", "pretrain_last.pth"):
        (tmp_path / name).write_bytes((files / "joint.pth").read_bytes())
    found = told(tmp_path)
    assert (found["kind"], found["codes"]) == ("joint checkpoint", 3)
    assert found["path"] == str(tmp_path / "pretrain_last.pth")


def test_faults(files, tmp_path):
    assert "does not exist" in run("inspect", tmp_path / "none").stderr
    assert "holds no code file" in run("inspect", tmp_path).stderr
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    assert "is no file of this method" in run("inspect", tmp_path / "a.pth").stderr
    (tmp_path / "cut.pth").write_bytes((files / "joint.pth").read_bytes()[:900])
    assert run("inspect", tmp_path / "cut.pth").exit_code == 1
