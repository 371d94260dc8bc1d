"""Embeddings of single images: the goldens, every pool, history, the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors import safe_open

from rsp_pretrain.cli import main
from rsp_pretrain.model import RSP
from rsp_pretrain.probe.embedding import POOLS, CortexTransform, Embedder, cortex_model, embed_frames, fuse_history
from rsp_pretrain.probe.session import open_encoder
from vos_core.errors import UsageError
from vos_core.testing import assert_within, golden_cases


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "cortex_embedding"))
def test_cortex_embedding(
    case: Any, seeded_rsp: Callable[..., RSP], golden_arrays: Callable[[str], Mapping[str, np.ndarray]]
) -> None:
    gold, options = golden_arrays(case["file"]), case["transform"]
    assert (options["interpolation"], case["embedding"], case["history_padding"]) == ("bicubic", "class_token", "first")
    transform = CortexTransform(resize=options["resize_short_side"], crop=options["center_crop"])
    embedder = Embedder(seeded_rsp(case["variant"], case["seed"]))
    found = np.stack(list(embed_frames(embedder, gold["frames"], transform, batch=3)))
    assert found.shape == (case["n_frames"], embedder.dim)
    assert_within(found, gold["emb"], case["tolerance"]["emb"], label="emb")
    assert_within(fuse_history(found, case["history"]), gold["flare"], case["tolerance"]["flare"], label="flare")


def test_every_pool_has_the_length_it_says(tiny: Callable[..., RSP]) -> None:
    network = tiny(stoch=3, discrete=5).eval()
    image = torch.randn(2, 3, 64, 64)
    found = {pool: Embedder(network, pool=pool, image_size=64)(image) for pool in POOLS}
    for pool in POOLS:
        assert found[pool].shape == (2, Embedder(network, pool=pool, image_size=64).dim), pool
    with torch.no_grad():
        tokens = network.encode(image)
        torch.testing.assert_close(found["class"], tokens[:, 0])
        torch.testing.assert_close(found["tokens"], tokens.flatten(1))
        logits = network.to_prior(tokens[:, 0])
    torch.testing.assert_close(found["class+prior-logits"], torch.cat((tokens[:, 0], logits), 1))
    chosen = found["class+prior-onehot"][:, 32:].view(2, 3, 5)
    assert (chosen.argmax(2) == logits.view(2, 3, 5).argmax(2)).all()
    assert (chosen.sum(2) == 1).all()
    assert found["mean"].mean(1).abs().max() < 1e-5  # normalised
    with pytest.raises(UsageError, match="discrete"):
        Embedder(tiny(discrete=0), pool="class+prior-onehot")


def test_history_is_fused_as_steps_and_the_last() -> None:
    rows = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    fused = fuse_history(rows, 3)
    np.testing.assert_array_equal(fused[0], [0, 0, 0, 0, *rows[0]])
    np.testing.assert_array_equal(fused[3], [*(rows[2] - rows[1]), *(rows[3] - rows[2]), *rows[3]])
    np.testing.assert_array_equal(fuse_history(rows, 1), rows)
    with pytest.raises(UsageError, match="history"):
        fuse_history(rows, 0)


@pytest.fixture
def weights(tmp_path: Path, tiny: Callable[..., RSP]) -> Path:
    path = tmp_path / "tiny.pth"
    torch.save({"model": tiny(stoch=4, discrete=8).state_dict()}, path)
    return path


def test_cortex_loader(weights: Path) -> None:
    model, dim, transform, info = cortex_model(str(weights), device="cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8))
    assert model(transform(picture)[None]).shape == (1, dim) == (1, 32)
    assert transform(picture).shape == (3, 224, 224)
    assert info["pool"] == "class"
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_half_precision_changes_an_embedding_little(weights: Path) -> None:
    image = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact, half = (
        Embedder(open_encoder(weights=str(weights), device="cpu", precision=precision).encoder)(image)
        for precision in ("fp32", "bf16")
    )
    assert torch.nn.functional.cosine_similarity(exact, half).min() > 0.999
    assert (exact - half).norm() < 0.03 * exact.norm()
    assert not torch.equal(exact, half)


def test_command(tmp_path: Path, weights: Path) -> None:
    frames = tmp_path / "clip"
    frames.mkdir()
    for index in range(3):
        Image.fromarray(np.random.default_rng(index).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(frames / f"{index}.png")
    run = CliRunner().invoke
    base = ["embed", str(frames), str(frames / "1.png"), "--weights", str(weights), "--resize", "64", "--crop", "64"]
    done = run(main, [*base, "--history", "2", "--output", str(tmp_path / "a.npz")])
    assert done.exit_code == 0, done.output
    with np.load(tmp_path / "a.npz") as found:
        assert found["embeddings"].shape == (4, 64)
        assert found["names"].tolist() == ["clip/0", "clip/1", "clip/2", "1/1"]
        assert found["clips"].tolist() == [0, 0, 0, 1]
        np.testing.assert_array_equal(found["embeddings"][[0, 3], :32], 0)  # history begins anew with each input
        np.testing.assert_allclose(found["embeddings"][1, 32:], found["embeddings"][3, 32:], atol=1e-5)
        assert json.loads(str(found["info"]))["history"] == 2
    done = run(main, [*base, "--pool", "class+prior-onehot", "--output", str(tmp_path / "b.safetensors"), "--json"])
    assert json.loads(done.stdout)["size"] == 32 + 32
    with safe_open(tmp_path / "b.safetensors", "np") as file:
        assert file.get_tensor("embeddings").shape == (4, 64)
        assert json.loads(file.metadata()["names"])[3] == "1/1"
    for arguments, message in (
        ([*base, "--output", "x.csv"], "ends in .npz"),
        (["embed", str(tmp_path / "none"), "--weights", str(weights), "--output", str(tmp_path / "c.npz")], "does not exist"),
        ([*base, "--crop", "99", "--output", str(tmp_path / "c.npz")], "not larger"),
    ):
        refused = run(main, arguments)
        assert refused.exit_code in (1, 2)
        assert message in refused.output
    assert not (tmp_path / "c.npz").exists()
