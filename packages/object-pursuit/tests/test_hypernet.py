"""The cheaper order of a hypernetwork's layers against the layers as they are written; codes in batches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from object_pursuit.config import PRESETS
from object_pursuit.model import CodeNetwork, Hypernet, build_encoder, build_hypernet, kernel_tail
from object_pursuit.model.hypernet import HyperBlock, combine_codes
from object_pursuit.model.kernel_tail import convolve_few, convolve_rows, convolve_tiles, generate_kernels, mix_and_shift
from object_pursuit.model.primary import conv_norm


def doubles(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("height", "width", "k"), [(56, 40, 5), (30, 33, 3), (7, 12, 5), (61, 9, 5)])
@pytest.mark.parametrize("slope", [1.0, 0.01])
def test_tiles_convolve(height, width, k, slope):
    x, weight, bias = doubles(2, 3, height, width), doubles(4, 3, k, k, seed=1), doubles(4, seed=2)
    expected = F.leaky_relu(F.conv2d(x, weight, bias, padding=k // 2), slope)
    torch.testing.assert_close(convolve_tiles(x, weight, bias, slope=slope), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        convolve_tiles(x, weight, None, slope=slope),
        F.leaky_relu(F.conv2d(x, weight, padding=k // 2), slope),
        rtol=1e-9,
        atol=1e-9,
    )


def test_gradients_of_tiles():
    x, weight, bias = (
        value.requires_grad_() for value in (doubles(1, 2, 31, 6), doubles(3, 2, 5, 5, seed=1), doubles(3, seed=2))
    )
    assert torch.autograd.gradcheck(
        lambda a, b, c: convolve_tiles(a, b, c, slope=0.1), (x, weight, bias), fast_mode=True, atol=1e-6, rtol=1e-5
    )
    frozen = weight.detach()
    convolve_tiles(x, frozen, bias.detach(), slope=0.1).sum().backward()
    assert x.grad is not None


def test_channels_are_mixed_before_they_are_shifted():
    x, weight, bias = doubles(2, 6, 9, 11), doubles(2, 6, 5, 5, seed=1), doubles(2, seed=2)
    torch.testing.assert_close(mix_and_shift(x, weight, bias), F.conv2d(x, weight, bias, padding=2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_row_kernels(channels):
    x, weight, bias = torch.randn(2, channels, 4, 90), torch.randn(channels, channels, 1, 70), torch.randn(channels)
    torch.testing.assert_close(convolve_rows(x, weight, bias), F.conv2d(x, weight, bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "padding"), [((9, 17), (0, 0)), ((5, 5), (2, 2)), ((3, 7), (2, 0)), ((1, 6), (0, 5))])
def test_few_channels_have_the_gradients_of_a_convolution(kernel, padding):
    x, weight, bias = doubles(2, 3, 12, 20), doubles(4, 3, *kernel, seed=1), doubles(4, seed=2)
    found = {}
    for name, convolve in (("torch", F.conv2d), ("few", convolve_few)):
        leaves = [value.clone().requires_grad_() for value in (x, weight, bias)]
        y = convolve(*leaves, padding=padding)
        y.square().sum().backward()
        found[name] = [y.detach(), *(leaf.grad for leaf in leaves)]
    for ours, theirs in zip(found["few"], found["torch"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    frozen = x.clone().requires_grad_()
    convolve_few(frozen, weight, None, padding=padding).sum().backward()
    assert frozen.grad is not None


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("shape", [(40, 200, 1, 1), (40, 90, 3, 3)])
def test_blocks_in_both_orders(shape, grad, monkeypatch):
    monkeypatch.setattr(kernel_tail, "MIN_TAP_WORK", 1)
    monkeypatch.setattr(kernel_tail, "_MIN_MIX_WORK", 1)
    torch.manual_seed(0)
    block = HyperBlock(8, shape)
    z = torch.randn(2, 8)
    with torch.set_grad_enabled(grad):
        cheap, written = block(z), block(z, exact_order=True)
    for one, other in zip(cheap, written, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    if grad:
        found = {}
        for kernels, label in ((cheap[0], "cheap"), (written[0], "written")):
            block.zero_grad()
            kernels.square().sum().backward()
            found[label] = {name: p.grad.clone() for name, p in block.named_parameters() if p.grad is not None}
        for name, value in found["written"].items():
            torch.testing.assert_close(found["cheap"][name], value, rtol=1e-3, atol=1e-3 * float(value.abs().max()))


def test_small_maps_run_as_written():
    torch.manual_seed(0)
    block = HyperBlock(8, (24, 48, 3, 3))
    seed = torch.randn(1, 1, 32, 32)
    assert torch.equal(generate_kernels(block.conv_kernel_gen, seed), block.conv_kernel_gen(seed))


def test_codes_in_batches_equal_codes_one_by_one():
    torch.manual_seed(0)
    config = PRESETS["tiny"]
    hypernet, encoder = build_hypernet(config), build_encoder(config)
    codes, images = torch.randn(3, config.z_dim), torch.rand(2, 3, 64, 64)
    network = CodeNetwork(hypernet, encoder, dropout="never").eval()
    with torch.no_grad():
        together = network.run(images, hypernet(codes)).logits
        for place, code in enumerate(codes):
            alone = network.run(images, hypernet(code)).logits
            torch.testing.assert_close(together[:, place : place + 1], alone, rtol=1e-3, atol=1e-4)


def test_generated_encoders_take_codes_in_batches_too():
    torch.manual_seed(0)
    config = PRESETS["full"].model_copy(update={"z_dim": 4, "table": small_full_table()})
    hypernet = Hypernet(config.z_dim, config.table)
    network = CodeNetwork(hypernet, None, dropout="never").eval()
    codes, images = torch.randn(2, 4), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        together = network.run(images, hypernet(codes)).logits
        alone = network.run(images, hypernet(codes[1])).logits
    torch.testing.assert_close(together[:, 1:], alone, rtol=1e-3, atol=1e-3)


def small_full_table():
    widths = {64: 6, 128: 8, 256: 10, 512: 12, 3: 3, 1: 1, 48: 4, 304: 14, 1280: 50}
    return {name: (widths[out], widths[inside], k, k) for name, (out, inside, k, _) in full().items()}


def full():
    return PRESETS["full"].table


def test_one_value_per_channel_is_normed_to_the_offset():
    """A single image in the pooled branch: duplicating it would leave mean and variance as they are."""
    weights = {"l.weight": torch.randn(3, 2, 1, 1), "l.bn_weight": torch.randn(3), "l.bn_bias": torch.randn(3)}
    x = torch.randn(1, 2, 1, 1)
    doubled = conv_norm(torch.cat((x, x)), weights, "l")
    torch.testing.assert_close(conv_norm(x, weights, "l"), doubled[:1], rtol=1e-4, atol=1e-4)


def test_combinations_sum_in_order():
    bases, coefficients = torch.randn(4, 5), torch.randn(4)
    expected = torch.zeros(5)
    for c, z in zip(coefficients, bases, strict=True):
        expected = expected + c * z
    assert torch.equal(combine_codes(coefficients, bases), expected)


def test_kernels_grow_until_they_cover_the_layer():
    block = HyperBlock(4, (1, 70, 3, 3))
    convs = [layer for layer in block.conv_kernel_gen if isinstance(layer, nn.Conv2d)]
    assert [tuple(layer.kernel_size) for layer in convs] == [(5, 5), (5, 5), (5, 5), (32, 59)]
    assert block(torch.zeros(4))[0].shape == (1, 70, 3, 3)
