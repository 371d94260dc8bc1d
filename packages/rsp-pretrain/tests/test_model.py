"""Pieces of the network against plain formulations written out here."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rsp_pretrain.config import ARCHITECTURES, LONG_SUFFIX, Objective
from rsp_pretrain.model import FACTORIES, Encoder, build_rsp
from rsp_pretrain.model.decoder import DecoderBlock, standardised
from rsp_pretrain.model.latent import CategoricalLatent, GaussianLatent, balanced_kl, draw_latent
from rsp_pretrain.model.network import patchify, unpatchify
from rsp_pretrain.model.position import resample_positions, sincos_table
from rsp_pretrain.model.vit import PatchEmbed
from vos_core.errors import ConfigError, UsageError


def frames(n=3, size=64, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=g), torch.randn(n, 3, size, size, generator=g)


@pytest.mark.parametrize(
    ("variant", "parameters", "trainable", "entries"),
    [
        ("rsp_vit_small_patch16", 59_182_720, 59_006_208, 346),
        ("rsp_vit_base_patch16", 127_937_536, 127_685_376, 346),
        ("rsp_vit_small_patch8", 59_192_896, 58_489_536, 346),
        ("rsp_vit_large_patch16", 349_504_768, 349_202_176, 490),
    ],
)
def test_published_sizes(variant, parameters, trainable, entries):
    for name in (variant, variant + LONG_SUFFIX):
        with torch.device("meta"):
            model = FACTORIES[name]()
        assert sum(p.numel() for p in model.parameters()) == parameters
        assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
        assert len(model.state_dict()) == entries
    assert len(FACTORIES) == 2 * len(ARCHITECTURES)


def test_patches_are_the_convolution():
    embed, images = PatchEmbed(8, 12), torch.randn(2, 3, 20, 33)
    expected = embed.proj(images).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embed(images), expected, atol=1e-5, rtol=1e-5)


def plain_attention(query, key, value, heads):
    parts = [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value)]
    weights = (parts[0] @ parts[1].transpose(2, 3) / math.sqrt(parts[0].shape[3])).softmax(3)
    return (weights @ parts[2]).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("batch", [1, 3])
def test_decoder_block_is_its_equations(batch):
    torch.manual_seed(0)
    block = DecoderBlock(16, 2).double()
    for norm in (block.norm1, block.norm_kv1, block.norm3, block.norm4):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x, memory = torch.randn(batch, 5, 16).double(), torch.randn(3, 7, 16).double()
    found = block(x, standardised(memory))
    y = x.expand(3, -1, -1)
    key, value = block.cattn.kv(block.norm_kv1(memory)).chunk(2, 2)
    y = y + block.cattn.proj(plain_attention(block.cattn.q(block.norm1(y)), key, value, 2))
    y = y + block.attn.proj(plain_attention(*block.attn.qkv(block.norm3(y)).chunk(3, 2), 2))
    y = y + block.mlp2.fc2(F.gelu(block.mlp2.fc1(block.norm4(y))))
    torch.testing.assert_close(found, y)


def test_sincos_table_by_hand():
    table = sincos_table(8, 3)[0]
    assert (table[0] == 0).all()
    row, column = 1, 2  # token 1 + 1 * 3 + 2
    rates = [1.0, 0.01]
    expected = [f(p * r) for p in (column, row) for f in (math.sin, math.cos) for r in rates]
    np.testing.assert_allclose(table[1 + row * 3 + column], expected, atol=1e-6)
    with pytest.raises(UsageError, match="multiple of 4"):
        sincos_table(6, 3)


def test_positions_of_other_grids():
    table = sincos_table(8, 4)
    assert resample_positions(table, (4, 4)) is table
    wide = resample_positions(table, (5, 9))
    assert wide.shape == (1, 46, 8)
    assert torch.equal(wide[:, 0], table[:, 0])
    # Sampling coordinates (i + 0.5) / factor - 0.5 with factor (tokens + 0.1) / side: by size they would differ.
    by_size = F.interpolate(table[:, 1:].reshape(1, 4, 4, 8).permute(0, 3, 1, 2), size=(5, 9), mode="bicubic")
    assert not torch.allclose(wide[0, 1:], by_size[0].flatten(1).t(), atol=1e-4)
    with pytest.raises(UsageError, match="at least one patch"):
        Encoder(patch=16, dim=16, depth=1, heads=1, image_size=64).positions(8, 64)


def test_patches_round_trip():
    images = torch.randn(2, 3, 8, 12)
    patches = patchify(images, 4)
    assert patches.shape == (2, 6, 48)
    torch.testing.assert_close(patches[0, 1, :3], images[0, :, 0, 4])  # first pixel of the second patch, channels last
    assert torch.equal(unpatchify(patches, 4, (2, 3)), images)


def test_classes_are_drawn_by_their_probabilities():
    logits = torch.tensor([[[0.0, 1.0, 2.0]]]).repeat(40_000, 1, 1)
    draw = draw_latent(40_000, stoch=1, discrete=3, device=torch.device("cpu"), generator=torch.Generator().manual_seed(0))
    share = CategoricalLatent(logits).sample(draw).mean(0)
    np.testing.assert_allclose(share, torch.softmax(logits[0, 0], 0), atol=0.01)
    edge = CategoricalLatent(logits[:1]).sample(torch.tensor([[1.0]]))
    assert edge.tolist() == [[0, 0, 1]]


def test_a_sample_is_one_hot_and_passes_the_gradient_of_probabilities():
    logits = torch.randn(2, 3, 4, requires_grad=True)
    sample = CategoricalLatent(logits).sample(torch.tensor([[0, 1, 2], [3, 0, 1]]))
    weight = torch.randn(2, 12)
    (sample * weight).sum().backward()
    other = logits.detach().clone().requires_grad_()
    (other.softmax(-1).flatten(1) * weight).sum().backward()
    torch.testing.assert_close(logits.grad, other.grad)
    assert sample.detach().view(2, 3, 4).argmax(-1).tolist() == [[0, 1, 2], [3, 0, 1]]


def test_kl_equals_torch_distributions():
    a, b = torch.randn(5, 4, 6).double(), torch.randn(5, 4, 6).double()
    own = CategoricalLatent(a).kl(CategoricalLatent(b))
    kinds = [torch.distributions.Categorical(logits=x) for x in (a, b)]
    torch.testing.assert_close(own, torch.distributions.kl_divergence(*kinds).sum(1).float())
    a, b = torch.randn(5, 8), torch.randn(5, 8)
    own = GaussianLatent(a).kl(GaussianLatent(b))
    kinds = [torch.distributions.Normal(x[:, :4], F.softplus(x[:, 4:]) + 0.1) for x in (a, b)]
    torch.testing.assert_close(own, torch.distributions.kl_divergence(*kinds).sum(1))


@pytest.mark.parametrize("kind", [CategoricalLatent, GaussianLatent])
def test_balancing_shares_the_gradient(kind):
    shape = (3, 2, 4) if kind is CategoricalLatent else (3, 8)
    q, p = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    whole = torch.autograd.grad(kind(q).kl(kind(p)).mean(), (q, p))
    shared = torch.autograd.grad(balanced_kl(kind(q), kind(p), balance=0.2), (q, p))
    torch.testing.assert_close(shared[0], 0.2 * whole[0])
    torch.testing.assert_close(shared[1], 0.8 * whole[1])


@pytest.mark.parametrize("options", [{}, {"discrete": 0, "stoch": 5}, {"norm_pix_loss": False, "mask_ratio": 0.5}])
def test_a_pass_is_its_parts(tiny, options):
    model, (present, future) = tiny(**options), frames()
    draws = model.draw(future, generator=torch.Generator().manual_seed(2))
    out = model(present, future, draws)
    again = model(present, future, draws, with_prior=False)
    assert torch.equal(out.loss, again.loss)
    assert again.prior is None
    kept = int(16 * (1 - model.objective.mask_ratio))
    assert out.visible.shape == (3, kept + 1, 32)
    assert out.mask.sum(1).tolist() == [16 - kept] * 3
    source = model.encode(present)
    torch.testing.assert_close(out.source, source, atol=1e-5, rtol=1e-4)
    truth = model.pixel_targets(future)
    torch.testing.assert_close(out.loss_post, F.mse_loss(out.post, truth))
    torch.testing.assert_close(out.loss_mae, ((out.mae - truth) ** 2)[out.mask.bool()].mean())
    torch.testing.assert_close(
        out.loss, out.loss_post + out.loss_mae + model.objective.kl_scale * out.kl_value.clamp(min=model.objective.kl_freebit)
    )
    out.loss.backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []
    assert model.pos_embed.grad is None


def test_draws_come_in_the_published_order(tiny):
    model, (_, future) = tiny(), frames()
    torch.manual_seed(5)
    draws = model.draw(future)
    torch.manual_seed(5)
    assert torch.equal(draws.noise, torch.randn(future.shape))
    assert torch.equal(draws.post, torch.rand(3, 32))
    assert torch.equal(draws.prior, torch.rand(3, 32))
    assert torch.equal(draws.mask_noise, torch.rand(3, 16))


def test_half_precision_is_near(tiny):
    model, (present, future) = tiny(), frames()
    draws = model.draw(future)
    exact = model(present, future, draws)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model(present, future, draws)
    assert half.loss.dtype == torch.float32
    assert abs(float(half.loss.detach()) / float(exact.loss.detach()) - 1) < 0.02


def test_wrong_input_is_named(tiny):
    with pytest.raises(UsageError, match="64, 64"):
        tiny()(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))
    for options in ({"discrete": 1}, {"mask_ratio": 1.0}, {"mask_ratio": 0.0}, {"kl_balance": 2}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            build_rsp(**options)
    assert Objective().norm_pix_loss


def test_attention_maps_are_shares(tiny):
    model, (images, _) = tiny(), frames()
    for block in (0, -1):
        maps = model.attention_maps(images, block=block)
        assert maps.shape == (3, 2, 4, 4)
        assert (maps >= 0).all()
        assert (maps.sum((2, 3)) < 1).all()
    assert model.dense_features(images).shape == (3, 32, 4, 4)


def test_the_memory_of_a_masked_frame_holds_hidden_patches_once(tiny):
    model, (_, future) = tiny(), frames()
    noise = model.draw(future, generator=torch.Generator().manual_seed(3)).mask_noise
    with torch.no_grad():
        visible, mask, restore = model.encode_visible(future, noise)
        rows, places = model.masked_memory(visible, restore)
        shown = model.decoder_embed_mae(visible)
        hidden = model.mask_token.expand(len(shown), int(mask[0].sum()), -1)
        patches = torch.cat((shown[:, 1:], hidden), 1).gather(1, restore.unsqueeze(2).expand(-1, -1, shown.shape[2]))
        whole = torch.cat((shown[:, :1], patches), 1) + model.decoder_pos_embed
        assert rows.shape[0] == shown.shape[0] * shown.shape[1] + model.patches
        torch.testing.assert_close(rows[places], whole)
        torch.testing.assert_close(model.decode(rows, places), model.decode(whole), atol=1e-5, rtol=1e-4)
