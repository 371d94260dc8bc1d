"""Local attention in torch, in blocks of rows where memory must be bounded; two ways that agree up to rounding.

`forward` multiplies whole rows: the windows of a row of pixels lie in a band of 2 m + 1 rows, so one matrix product per row gives
all of its scores and more, of which a strided view picks the windows. It does W / (2 m + 1) times the needed work at the speed of
matrix products. Where rows are very long or cells lie apart, and in `backward`, a loop over window cells takes shifted products
instead. Unfolding the windows would cost K copies of the keys; views cost none. Shapes as in `vos_core.ops.window`, with heads
apart from channels: queries `(N, heads, D, H, W)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 32 * 2**20
"""How much of the attention exists at a time in `forward` and `backward`, in bytes; one row of pixels at least."""
BAND_WIDTHS = 12
"""Rows up to that many windows long are multiplied whole."""


class Window(NamedTuple):
    """Which cells a pixel looks at.

    Args:
        heads: attention heads.
        max_dis: m, cells on each side of the centre.
        dilation: pixels between cells.
        scale: multiplies the query.
    """

    heads: int
    max_dis: int
    dilation: int
    scale: float

    @property
    def side(self) -> int:
        """Cells in a row of the window; K is its square."""
        return 2 * self.max_dis + 1

    @property
    def pad(self) -> int:
        """Pixels that the window reaches beyond its centre."""
        return self.max_dis * self.dilation

    def by_head(self, x: Tensor) -> Tensor:
        """Return `(N, heads * D, H, W)` as `(N, heads, D, H, W)`."""
        return x.reshape(x.shape[0], self.heads, -1, *x.shape[2:])

    def padded(self, x: Tensor) -> Tensor:
        """Return `by_head(x)` with zeros around it as far as windows reach."""
        return F.pad(self.by_head(x), (self.pad,) * 4)

    def cells(self, padded: Tensor, first: int, last: int) -> Iterator[Tensor]:
        """Yield, cell by cell in row-major order, the view of `padded` that pixel rows `first` ... `last - 1` see."""
        width = padded.shape[-1] - 2 * self.pad
        for i in range(self.side):
            top = first + i * self.dilation
            for j in range(self.side):
                left = j * self.dilation
                yield padded[..., top : top + last - first, left : left + width]

    def inside(self, height: int, width: int, rows: range, device: torch.device) -> Tensor:
        """Return which cells of these pixel rows lie inside the image, bool `(K, len(rows), W)`."""
        padded = F.pad(torch.ones(1, height, width, dtype=torch.bool, device=device), (self.pad,) * 4)
        return torch.cat(list(self.cells(padded, rows.start, rows.stop)))

    def corr(self, query: Tensor, padded_key: Tensor, first: int, last: int) -> Tensor:
        """Return `(N, heads, K, last - first, W)` similarities of these query rows (already cut out) with their cells."""
        return torch.stack([(query * cell).sum(2) for cell in self.cells(padded_key, first, last)], 2)

    def readout(self, attention: Tensor, padded_value: Tensor, first: int, last: int) -> Tensor:
        """Return `(N, heads, D, last - first, W)`, the cells' values weighted by `attention` of these rows."""
        cells = self.cells(padded_value, first, last)
        read = attention[:, :, 0].unsqueeze(2) * next(cells)
        for index, cell in enumerate(cells, start=1):
            read = read + attention[:, :, index].unsqueeze(2) * cell
        return read


def forward(window: Window, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None) -> Tensor:
    """Return the attention's readout `(N, heads * Dv, H, W)`; arguments as in `local_attention`, float32."""
    if window.dilation == 1 and q.shape[3] <= BAND_WIDTHS * window.side:
        return _banded(window, q, k, v, bias, value_bias)
    value = window.padded(v)
    parts = []
    for attention, _, first, last in _blocks(window, q, window.padded(k), bias):
        read = window.readout(attention, value, first, last)
        if value_bias is not None:
            read = read + torch.einsum("nhkyx,hdk->nhdyx", attention, value_bias)
        parts.append(read)
    return torch.cat(parts, 3).flatten(1, 2)


def _banded(window: Window, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None) -> Tensor:
    batch, _, height, width = q.shape
    side, pad = window.side, window.pad
    band = side * (width + 2 * pad)  # cells of the rows that a row of pixels sees, with the padding on both sides
    query = _cells_last(window.by_head(q * window.scale), 0)
    key, value = _cells_last(window.by_head(k), pad), _cells_last(window.by_head(v), pad)
    out = value.new_empty(batch, height, width, window.heads, value.shape[-1])
    step = max(1, BLOCK_BYTES // (4 * width * band))
    for first in range(0, height, step):
        rows = min(step, height - first)
        outside = ~window.inside(height, width, range(first, first + rows), q.device).permute(1, 2, 0)
        for n in range(batch):
            for head in range(window.heads):
                own_keys, own_values = (_bands(x[n, head], first, rows, band) for x in (key, value))
                scores = torch.bmm(query[n, head, first : first + rows], own_keys.transpose(1, 2))
                windows = scores.as_strided(
                    (rows, width, side, side), (width * band, band + 1, width + 2 * pad, 1)
                )  # pixel x sees columns x ... x + 2 m of each padded row
                attention = windows.flatten(2)
                if bias is not None:
                    attention += bias[n, head, :, first : first + rows].permute(1, 2, 0)
                attention = torch.softmax(attention.masked_fill_(outside, -torch.inf), 2)
                scores.zero_()
                windows.copy_(attention.unflatten(2, (side, side)))
                read = torch.bmm(scores, own_values)
                if value_bias is not None:
                    read += attention @ value_bias[head].T
                out[n, first : first + rows, :, head] = read
    return out.flatten(3).permute(0, 3, 1, 2)


def _cells_last(x: Tensor, pad: int) -> Tensor:
    """Return `(N, heads, H + 2 pad, W + 2 pad, D)` of `(N, heads, D, H, W)`, zeros around it, contiguous."""
    n, heads, channels, height, width = x.shape
    out = x.new_zeros(n, heads, height + 2 * pad, width + 2 * pad, channels)
    out[:, :, pad : pad + height, pad : pad + width] = x.permute(0, 1, 3, 4, 2)
    return out


def _bands(cells: Tensor, first: int, rows: int, band: int) -> Tensor:
    """Return the overlapping view `(rows, band, D)` of `(H', W', D)`: for each row of pixels the cells of the rows it sees."""
    _, columns, channels = cells.shape
    stride = columns * channels
    return cells.as_strided((rows, band, channels), (stride, channels, 1), cells.storage_offset() + first * stride)


def backward(
    window: Window, grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of q, k, v, bias and value bias; the attention is computed anew block by block.

    With S = a (dA - sum a dA) per window (soft-max rule), where sum a dA = <grad, out> whatever the values are.
    """
    key, value = window.padded(k), window.padded(v)
    grad_out = window.by_head(grad)
    delta = (grad_out * window.by_head(out)).sum(2)
    grad_q, grad_key, grad_value = torch.zeros_like(window.by_head(q)), torch.zeros_like(key), torch.zeros_like(value)
    grad_bias = None if bias is None else torch.empty_like(bias)
    grad_value_bias = None if value_bias is None else torch.zeros_like(value_bias)
    for attention, query, first, last in _blocks(window, q, key, bias):
        grad_rows = grad_out[..., first:last, :]
        views = (window.cells(x, first, last) for x in (key, value, grad_key, grad_value))
        for index, (key_cell, value_cell, grad_key_cell, grad_value_cell) in enumerate(zip(*views, strict=True)):
            weight = attention[:, :, index]
            grad_weight = (grad_rows * value_cell).sum(2)
            if value_bias is not None and grad_value_bias is not None:
                grad_weight = grad_weight + (grad_rows * value_bias[:, :, index, None, None]).sum(2)
                grad_value_bias[:, :, index] += (grad_rows * weight.unsqueeze(2)).sum((0, 3, 4))
            grad_score = weight * (grad_weight - delta[..., first:last, :])
            if grad_bias is not None:
                grad_bias[:, :, index, first:last] = grad_score
            grad_q[..., first:last, :] += grad_score.unsqueeze(2) * key_cell
            # The cells are views of the padded gradients: neighbouring pixels add up where their windows overlap.
            grad_key_cell += grad_score.unsqueeze(2) * query
            grad_value_cell += weight.unsqueeze(2) * grad_rows
    pad, (height, width) = window.pad, q.shape[2:]
    grad_k, grad_v = (x[..., pad : pad + height, pad : pad + width].flatten(1, 2) for x in (grad_key, grad_value))
    return grad_q.flatten(1, 2) * window.scale, grad_k, grad_v, grad_bias, grad_value_bias


def _blocks(window: Window, q: Tensor, key: Tensor, bias: Tensor | None) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """Yield attention `(N, heads, K, rows, W)`, scaled query, first row and end row of each block."""
    batch, _, height, width = q.shape
    scaled = window.by_head(q * window.scale)
    step = max(1, BLOCK_BYTES // (4 * batch * window.heads * window.side**2 * width))
    for first in range(0, height, step):
        last = min(first + step, height)
        query = scaled[..., first:last, :]
        scores = window.corr(query, key, first, last)
        if bias is not None:
            scores = scores + bias[:, :, :, first:last]
        # The reference subtracts 1e8 outside the image: the same zeros, since the centre is always inside.
        outside = ~window.inside(height, width, range(first, last), q.device)
        yield torch.softmax(scores.masked_fill(outside, -torch.inf), 2), query, first, last
