"""Triton: local attention with an online soft-max, and its backward pass, which computes the attention anew.

One program does a run of pixels of one image row for one head. Twins: `vos_core.ops.window_torch`.
"""

# Kernel arguments are pointers and numbers of the device language.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vos_core.ops.window_torch import Window

_PIXELS = 16


@triton.jit
def _forward(
    q,
    k,
    v,
    bias,
    value_bias,
    out,
    log_sum,
    heads,
    height,
    width,
    key_dim,
    value_dim,
    scale,
    reach: tl.constexpr,
    dilation: tl.constexpr,
    key_block: tl.constexpr,
    value_block: tl.constexpr,
    block: tl.constexpr,
    has_bias: tl.constexpr,
    has_value_bias: tl.constexpr,
):
    image_head = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    area = height * width
    dk, dv = tl.arange(0, key_block), tl.arange(0, value_block)
    key_rows, value_rows = (dk < key_dim)[:, None], (dv < value_dim)[:, None]
    here = row * width + column
    real = column < width
    q_base = image_head * key_dim * area
    v_base = image_head * value_dim * area
    query = tl.load(q + q_base + dk[:, None] * area + here[None, :], mask=key_rows & real[None, :], other=0.0)
    query = query * scale
    peak = tl.full((block,), -1.0e30, tl.float32)
    total = tl.zeros((block,), tl.float32)
    read = tl.zeros((value_block, block), tl.float32)
    side: tl.constexpr = 2 * reach + 1
    for cell in range(side * side):
        y = tl.zeros_like(column) + row + (cell // side - reach) * dilation
        x = column + (cell % side - reach) * dilation
        seen = (y >= 0) & (y < height) & (x >= 0) & (x < width) & real
        there = y * width + x
        key = tl.load(k + q_base + dk[:, None] * area + there[None, :], mask=key_rows & seen[None, :], other=0.0)
        score = tl.sum(query * key, 0)
        if has_bias:
            score += tl.load(bias + (image_head * side * side + cell) * area + here, mask=seen, other=0.0)
        score = tl.where(seen, score, -float("inf"))
        value = tl.load(v + v_base + dv[:, None] * area + there[None, :], mask=value_rows & seen[None, :], other=0.0)
        if has_value_bias:
            at = ((image_head % heads) * value_dim + dv) * side * side + cell
            value += tl.load(value_bias + at, mask=dv < value_dim, other=0.0)[:, None]
        higher = tl.maximum(peak, score)
        weight = tl.exp(score - higher)
        shrink = tl.exp(peak - higher)
        total = total * shrink + weight
        read = read * shrink[None, :] + value * weight[None, :]
        peak = higher
    total = tl.where(real, total, 1.0)
    tl.store(log_sum + image_head * area + here, peak + tl.log(total), mask=real)
    inside = value_rows & real[None, :]
    tl.store(out + v_base + dv[:, None] * area + here[None, :], read / total[None, :], mask=inside)


@triton.jit
def _backward_query(
    q,
    k,
    v,
    bias,
    value_bias,
    grad,
    log_sum,
    delta,
    grad_q,
    grad_bias,
    grad_value_bias,
    heads,
    height,
    width,
    key_dim,
    value_dim,
    scale,
    reach: tl.constexpr,
    dilation: tl.constexpr,
    key_block: tl.constexpr,
    value_block: tl.constexpr,
    block: tl.constexpr,
    has_bias: tl.constexpr,
    has_value_bias: tl.constexpr,
):
    image_head = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    area = height * width
    dk, dv = tl.arange(0, key_block), tl.arange(0, value_block)
    key_rows, value_rows = (dk < key_dim)[:, None], (dv < value_dim)[:, None]
    here = row * width + column
    real = column < width
    q_base = image_head * key_dim * area
    v_base = image_head * value_dim * area
    query = tl.load(q + q_base + dk[:, None] * area + here[None, :], mask=key_rows & real[None, :], other=0.0) * scale
    incoming = tl.load(grad + v_base + dv[:, None] * area + here[None, :], mask=value_rows & real[None, :], other=0.0)
    normaliser = tl.load(log_sum + image_head * area + here, mask=real, other=0.0)
    mean = tl.load(delta + image_head * area + here, mask=real, other=0.0)
    found = tl.zeros((key_block, block), tl.float32)
    side: tl.constexpr = 2 * reach + 1
    for cell in range(side * side):
        y = tl.zeros_like(column) + row + (cell // side - reach) * dilation
        x = column + (cell % side - reach) * dilation
        seen = (y >= 0) & (y < height) & (x >= 0) & (x < width) & real
        there = y * width + x
        key = tl.load(k + q_base + dk[:, None] * area + there[None, :], mask=key_rows & seen[None, :], other=0.0)
        score = tl.sum(query * key, 0)
        cell_at = (image_head * side * side + cell) * area + here
        if has_bias:
            score += tl.load(bias + cell_at, mask=seen, other=0.0)
        weight = tl.where(seen, tl.exp(score - normaliser), 0.0)
        value = tl.load(v + v_base + dv[:, None] * area + there[None, :], mask=value_rows & seen[None, :], other=0.0)
        if has_value_bias:
            at = ((image_head % heads) * value_dim + dv) * side * side + cell
            value += tl.load(value_bias + at, mask=dv < value_dim, other=0.0)[:, None]
            tl.atomic_add(grad_value_bias + at, tl.sum(incoming * weight[None, :], 1), mask=dv < value_dim)
        slope = weight * (tl.sum(incoming * value, 0) - mean)
        if has_bias:
            tl.store(grad_bias + cell_at, slope, mask=real)
        found += slope[None, :] * key
    inside = key_rows & real[None, :]
    tl.store(grad_q + q_base + dk[:, None] * area + here[None, :], found * scale, mask=inside)


@triton.jit
def _backward_key(
    q,
    k,
    v,
    bias,
    value_bias,
    grad,
    log_sum,
    delta,
    grad_k,
    grad_v,
    heads,
    height,
    width,
    key_dim,
    value_dim,
    scale,
    reach: tl.constexpr,
    dilation: tl.constexpr,
    key_block: tl.constexpr,
    value_block: tl.constexpr,
    block: tl.constexpr,
    has_bias: tl.constexpr,
    has_value_bias: tl.constexpr,
):
    image_head = tl.program_id(2).to(tl.int64)
    row = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    area = height * width
    dk, dv = tl.arange(0, key_block), tl.arange(0, value_block)
    key_rows, value_rows = (dk < key_dim)[:, None], (dv < value_dim)[:, None]
    here = row * width + column
    real = column < width
    q_base = image_head * key_dim * area
    v_base = image_head * value_dim * area
    key = tl.load(k + q_base + dk[:, None] * area + here[None, :], mask=key_rows & real[None, :], other=0.0)
    value = tl.load(v + v_base + dv[:, None] * area + here[None, :], mask=value_rows & real[None, :], other=0.0)
    found_k = tl.zeros((key_block, block), tl.float32)
    found_v = tl.zeros((value_block, block), tl.float32)
    side: tl.constexpr = 2 * reach + 1
    for cell in range(side * side):
        # The query that sees this pixel as its cell lies on the other side.
        y = tl.zeros_like(column) + row - (cell // side - reach) * dilation
        x = column - (cell % side - reach) * dilation
        seen = (y >= 0) & (y < height) & (x >= 0) & (x < width) & real
        there = y * width + x
        query = tl.load(q + q_base + dk[:, None] * area + there[None, :], mask=key_rows & seen[None, :], other=0.0)
        query = query * scale
        score = tl.sum(query * key, 0)
        if has_bias:
            score += tl.load(bias + (image_head * side * side + cell) * area + there, mask=seen, other=0.0)
        normaliser = tl.load(log_sum + image_head * area + there, mask=seen, other=0.0)
        weight = tl.where(seen, tl.exp(score - normaliser), 0.0)
        incoming = tl.load(grad + v_base + dv[:, None] * area + there[None, :], mask=value_rows & seen[None, :], other=0.0)
        given = value
        if has_value_bias:
            at = ((image_head % heads) * value_dim + dv) * side * side + cell
            given = value + tl.load(value_bias + at, mask=dv < value_dim, other=0.0)[:, None]
        mean = tl.load(delta + image_head * area + there, mask=seen, other=0.0)
        slope = weight * (tl.sum(incoming * given, 0) - mean)
        found_k += slope[None, :] * query
        found_v += weight[None, :] * incoming
    tl.store(grad_k + q_base + dk[:, None] * area + here[None, :], found_k, mask=key_rows & real[None, :])
    tl.store(grad_v + v_base + dv[:, None] * area + here[None, :], found_v, mask=value_rows & real[None, :])


def forward(
    window: Window, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return the readout `(N, heads * Dv, H, W)` and the log of each soft-max's sum `(N, heads, H, W)`; contiguous float32."""
    out = torch.empty_like(v)
    log_sum = torch.empty(q.shape[0], window.heads, *q.shape[2:], device=q.device)
    grid, sizes, blocks = _launch(window, q, v, bias, value_bias)
    _forward[grid](q, k, v, bias, value_bias, out, log_sum, *sizes, **blocks)
    return out, log_sum


def backward(
    window: Window,
    grad: Tensor,
    out: Tensor,
    log_sum: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    value_bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of q, k, v, bias and value bias; `out` and `log_sum` are what `forward` returned."""
    delta = (window.by_head(grad) * window.by_head(out)).sum(2)
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    grad_bias = None if bias is None else torch.empty_like(bias)
    grad_value_bias = None if value_bias is None else torch.zeros_like(value_bias)
    grid, sizes, blocks = _launch(window, q, v, bias, value_bias)
    given = (q, k, v, bias, value_bias, grad, log_sum, delta)
    _backward_query[grid](*given, grad_q, grad_bias, grad_value_bias, *sizes, **blocks)
    _backward_key[grid](*given, grad_k, grad_v, *sizes, **blocks)
    return grad_q, grad_k, grad_v, grad_bias, grad_value_bias


def _launch(
    window: Window, q: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None
) -> tuple[tuple[int, int, int], tuple[float, ...], dict[str, int | bool]]:
    batch, _, height, width = q.shape
    key_dim, value_dim = q.shape[1] // window.heads, v.shape[1] // window.heads
    blocks: dict[str, int | bool] = {
        "reach": window.max_dis,
        "dilation": window.dilation,
        "key_block": triton.next_power_of_2(key_dim),
        "value_block": triton.next_power_of_2(value_dim),
        "block": _PIXELS,
        "has_bias": bias is not None,
        "has_value_bias": value_bias is not None,
    }
    sizes = (window.heads, height, width, key_dim, value_dim, window.scale)
    return (triton.cdiv(width, _PIXELS), height, batch * window.heads), sizes, blocks
