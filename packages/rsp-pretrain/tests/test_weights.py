"""Encoders out of the checkpoints of other methods: what loads, what is ignored, what is refused."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

from rsp_pretrain import METHOD
from rsp_pretrain.cli import main
from rsp_pretrain.config import ARCHITECTURES, Architecture, Objective
from rsp_pretrain.model import RSP, build_backbone, build_rsp
from rsp_pretrain.weights import RELEASED, load_encoder, load_rsp, manifest
from vos_core.errors import UsageError, WeightsError
from vos_core.weights.load import load_state
from vos_core.weights.manifest import manifest_of
from vos_core.weights.registry import get

SIZES = Architecture(patch=16, dim=64, depth=2, heads=1, decoder_dim=32, decoder_depth=1, decoder_heads=1, image_size=64)
PARTS = ("cls_token", "pos_embed", "patch_embed.", "blocks.", "norm.")


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return RSP(SIZES, Objective(stoch=4, discrete=4)).state_dict()


@pytest.fixture(scope="module")
def encoder_part(state):
    return {key: value for key, value in state.items() if key.startswith(PARTS)}


@pytest.fixture
def save(tmp_path):
    def write(content, name="file.pth"):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return write


def ignored(path):
    encoder, report = load_encoder(path)
    assert (encoder.dim, encoder.patch, len(encoder.blocks)) == (64, 16, 2)
    assert report.loaded == len(encoder.state_dict())
    assert not encoder.training
    return dict(report.ignored)


def test_checkpoints_of_the_field(state, encoder_part, save):
    """RSP's own, DINO's teacher, MoCo v3, MAE, timm with its head, a wrapped one."""
    assert sum(ignored(save({"model": state, "epoch": 3, "args": argparse.Namespace(lr=1.0)})).values()) == len(state) - 30
    assert ignored(save(encoder_part)) == {}
    dino = {f"backbone.{key}": value for key, value in encoder_part.items()} | {"head.mlp.0.weight": torch.zeros(1)}
    student = {key: torch.zeros_like(value) for key, value in dino.items()}
    assert ignored(save({"student": student, "teacher": dino, "epoch": 1})) == {"head": 1, "student": 31}
    assert float(load_encoder(save({"student": student, "teacher": dino}))[0].norm.weight[0].detach()) == 1
    moco = {f"module.base_encoder.{key}": value for key, value in encoder_part.items()}
    moco |= {"module.momentum_encoder.cls_token": torch.zeros(1), "module.predictor.0.weight": torch.zeros(1)}
    assert ignored(save({"state_dict": moco})) == {"momentum_encoder": 1, "predictor": 1}
    mae = {**encoder_part, "mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.zeros(8)}
    assert ignored(save({"model": mae})) == {"mask_token": 1, "decoder_blocks": 1}
    timm = {**encoder_part, "head.weight": torch.zeros(10, 64), "head.bias": torch.zeros(10)}
    assert ignored(save(timm)) == {"head": 2}


def test_positions_are_resampled_and_said(encoder_part, save):
    encoder, report = load_encoder(save(encoder_part), image_size=96)
    assert report.resized == (16, 36)
    assert encoder.pos_embed.shape == (1, 37, 64)
    expected = torch.nn.functional.interpolate(
        encoder_part["pos_embed"][:, 1:].reshape(1, 4, 4, 64).permute(0, 3, 1, 2), size=(6, 6), mode="bicubic"
    )
    torch.testing.assert_close(encoder.pos_embed[0, 1:].detach(), expected[0].flatten(1).t())
    assert "resampled from 16 to 36" in str(report)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: {k: v for k, v in s.items() if k != "norm.bias"}, r"norm\.bias"),
        (lambda s: {**s, "blocks.0.ls1.gamma": torch.zeros(64)}, r"blocks\.0\.ls1\.gamma"),
        (lambda s: {**s, "reg_token": torch.zeros(1, 4, 64)}, "reg_token"),
        (lambda s: {**s, "norm.weight": torch.zeros(65)}, r"norm\.weight"),
        (lambda s: {"conv1.weight": torch.zeros(3)}, "no vision transformer"),
    ],
)
def test_what_is_no_such_encoder_is_refused(encoder_part, save, change, named):
    with pytest.raises(WeightsError, match=named):
        load_encoder(save(change(encoder_part)))


def test_another_variant_is_named(save):
    with torch.device("meta"):
        other = build_backbone("vit_base").state_dict()
    path = save({key: torch.zeros(value.shape) for key, value in other.items()})
    with pytest.raises(WeightsError, match=r"--variant rsp_vit_base_patch16"):
        load_encoder(path, variant="rsp_vit_small_patch16")
    assert load_encoder(path, variant="rsp_vit_base_patch16_dec512d8b")[0].dim == 768


def test_damaged_files_are_named(tmp_path, state, save):
    path = save(state)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:2000])
    for name, named in (("cut.pth", "truncated"), ("absent.pth", "does not exist")):
        with pytest.raises(WeightsError, match=named):
            load_encoder(tmp_path / name)


def test_numbers_that_are_not_finite_are_named(state, save):
    broken = {**state, "blocks.1.mlp.fc1.weight": state["blocks.1.mlp.fc1.weight"] * float("nan")}
    for load in (load_encoder, load_rsp):
        with pytest.raises(WeightsError, match=r"file\.pth holds .* not finite .* in blocks\.1\.mlp\.fc1\.weight"):
            load(save({"model": broken}))


def test_whole_networks_load_strictly(state, encoder_part, save):
    network = load_rsp(save({"model": state, "args": {"stoch": 4, "decoder_heads": 1, "norm_pix_loss": False}}))
    assert network.architecture == SIZES
    assert network.objective == Objective(stoch=4, discrete=4, norm_pix_loss=False)
    mae = {key: value for key, value in state.items() if not key.startswith(("to_", "decoder_embed_stoch"))}
    for other in (encoder_part, mae):
        with pytest.raises(WeightsError, match="no decoder of RSP"):
            load_rsp(save(other))
    with pytest.raises(WeightsError, match=r"decoder_norm\.bias"):
        load_rsp(save({key: value for key, value in state.items() if key != "decoder_norm.bias"}))


@pytest.mark.parametrize("variant", [*ARCHITECTURES])
@pytest.mark.parametrize("goal", [{}, {"stoch": 16, "discrete": 0}])
def test_manifests_without_torch_equal_the_network(variant, goal):
    with torch.device("meta"):
        found = manifest_of(build_rsp(variant, **goal).state_dict())
    expected = manifest(variant, Objective(**goal))
    assert found == expected
    assert list(found) == list(expected)


def test_released_names_are_registered():
    for name, url in RELEASED.items():
        entry = get(name, method=METHOD.name)
        assert (entry.url, len(entry.read_manifest() or {})) == (url, 346)
        assert METHOD.weights[name] == (name,)


def test_unknown_variants_and_options_are_named():
    with pytest.raises(UsageError, match="rsp_vit_small_patch16"):
        build_rsp("rsp_vit_smal_patch16")
    with pytest.raises(UsageError, match="mask_ratio"):
        build_rsp(mask_rate=0.5)
    with pytest.raises(UsageError, match="vit_small"):
        build_backbone("vit_huge")
    with pytest.raises(UsageError, match="divide"):
        RSP(replace(SIZES, image_size=60))


def test_export(state, save, tmp_path):
    path, out = save({"model": state}), tmp_path / "encoder.safetensors"
    done = CliRunner().invoke(main, ["export", str(path), str(out), "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    assert (result["loaded"], result["target"], result["ignored"]["decoder_blocks"]) == (30, str(out), 22)
    exported = load_state(out)
    assert set(exported) == {key for key in state if key.startswith(PARTS)}
    assert all(torch.equal(exported[key], state[key]) for key in exported)
    shown = CliRunner().invoke(main, ["export", str(path), "--image_size", "128"])
    assert "resampled from 16 to 64 patches" in shown.output
    assert "ignored" in shown.output
    failed = CliRunner().invoke(main, ["export", str(tmp_path / "absent.pth")])
    assert failed.exit_code == 1
    assert "absent.pth" in failed.output
