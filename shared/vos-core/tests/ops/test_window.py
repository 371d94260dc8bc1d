from __future__ import annotations

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops import window_torch
from vos_core.ops.window import inside_window, local_attention, local_corr, local_readout

HEADS = 2


def slow_attention(q, k, v, bias, value_bias, *, max_dis, dilation, scale):
    """One pixel and one cell at a time."""
    batch, _, height, width = q.shape
    q, k, v = (x.unflatten(1, (HEADS, -1)) for x in (q, k, v))
    side, columns = 2 * max_dis + 1, []
    for y in range(height):
        for x in range(width):
            scores, values = [], []
            for cell in range(side**2):
                at_y, at_x = y + dilation * (cell // side - max_dis), x + dilation * (cell % side - max_dis)
                if 0 <= at_y < height and 0 <= at_x < width:
                    scores.append((q[..., y, x] * scale * k[..., at_y, at_x]).sum(2) + bias[:, :, cell, y, x])
                    values.append(v[..., at_y, at_x] + value_bias[None, :, :, cell])
            weights = torch.softmax(torch.stack(scores, -1), -1)
            columns.append((torch.stack(values, -1) * weights.unsqueeze(2)).sum(-1))
    return torch.stack(columns, -1).reshape(batch, -1, height, width)


@pytest.fixture
def inputs():
    g = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 4, 5), (2, 6, 4, 5), (2, 8, 4, 5), (2, HEADS, 9, 4, 5), (HEADS, 4, 9)]
    return [torch.randn(shape, generator=g, dtype=torch.float64).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("band_widths", [0, 12])
@pytest.mark.parametrize("block_bytes", [1, 2**25])
@pytest.mark.parametrize("dilation", [1, 2])
def test_attention_and_its_gradients_equal_a_pixelwise_loop(inputs, dilation, block_bytes, band_widths, monkeypatch):
    monkeypatch.setattr(window_torch, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(window_torch, "BAND_WIDTHS", band_widths)
    options = {"max_dis": 1, "dilation": dilation, "scale": 0.7}
    out = local_attention(*inputs[:3], heads=HEADS, bias=inputs[3], value_bias=inputs[4], **options)
    expected = slow_attention(*inputs, **options)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    grad = torch.randn_like(expected)
    for got, want in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)


def test_parts_make_the_whole(inputs):
    q, k, v, bias, _ = (x.detach().float() for x in inputs)
    scores = (local_corr(q, k, heads=HEADS, max_dis=1) + bias).masked_fill(~inside_window(4, 5, max_dis=1), -1e8)
    expected = local_readout(torch.softmax(scores, 2), v, max_dis=1)
    torch.testing.assert_close(local_attention(q, k, v, heads=HEADS, max_dis=1, bias=bias), expected)


def test_cells_outside_count_as_zero_keys():
    corr = local_corr(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), heads=1, max_dis=1)
    assert torch.equal(corr[0, 0] != 0, inside_window(2, 2, max_dis=1))
    assert corr[0, 0, 4].eq(1).all()


def test_gradients_of_parts(inputs):
    q, k, v = inputs[:3]
    torch.autograd.gradcheck(lambda q, k: local_corr(q, k, heads=HEADS, max_dis=1), (q[:1, :, :2, :3], k[:1, :, :2, :3]))
    a = torch.rand(1, HEADS, 9, 2, 3, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda a, v: local_readout(a, v, max_dis=1), (a, v[:1, :, :2, :3]))


def test_half_precision_inputs_give_half_precision_results(inputs):
    q, k, v = (x.detach().bfloat16().requires_grad_() for x in inputs[:3])
    out = local_attention(q, k, v, heads=HEADS, max_dis=1)
    out.sum().backward()
    assert out.dtype == v.dtype
    assert q.grad.dtype == torch.bfloat16


def test_shapes_that_do_not_fit_are_named(inputs):
    q, k, v, bias, value_bias = inputs
    with pytest.raises(UsageError, match="4 heads"):
        local_attention(q, k, v, heads=4, max_dis=1)
    with pytest.raises(UsageError, match="bias of shape"):
        local_attention(q, k, v, heads=HEADS, max_dis=2, bias=bias)
    with pytest.raises(UsageError, match="value bias of shape"):
        local_attention(q, k, v, heads=HEADS, max_dis=2, value_bias=value_bias)
    with pytest.raises(UsageError, match="attention of shape"):
        local_readout(bias, v, max_dis=2)
    with pytest.raises(UsageError, match="dilation 0"):
        local_corr(q, k, heads=HEADS, max_dis=1, dilation=0)


def test_autocast_does_not_lower_the_precision(inputs):
    q, k, v, bias, value_bias = (x.detach().float() for x in inputs)
    options = {"heads": HEADS, "max_dis": 1, "bias": bias, "value_bias": value_bias}
    expected = local_attention(q, k, v, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(local_attention(q, k, v, **options), expected)


@pytest.mark.parametrize("height", [32, 96])
def test_no_block_holds_the_attention_of_the_whole_map(height, monkeypatch):
    monkeypatch.setattr(window_torch, "BLOCK_BYTES", 64 * 1024)
    seen = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, dim: seen.append(4 * x.numel()) or softmax(x, dim))
    x = torch.randn(1, 2, height, 16, requires_grad=True)
    local_attention(x, x, x, heads=2, max_dis=3).sum().backward()
    assert max(seen) <= 64 * 1024
    assert sum(seen) == 2 * 4 * 2 * 49 * height * 16
