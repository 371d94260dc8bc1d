"""Local attention in torch, in blocks of rows where memory must be bounded; two ways that agree up to rounding.

The one multiplies whole rows: the windows of a row of pixels lie in a band of 2 m + 1 rows, so one matrix product per row gives
all of its scores and more, of which a strided view picks the windows. It does W / (2 m + 1) times the needed work at the speed of
matrix products. Where rows are very long or cells lie apart, the other loops over window cells and takes shifted products.
Unfolding the windows would cost K copies of the keys; views cost none. Shapes as in `vos_core.ops.window`, with heads apart from
channels: queries `(N, heads, D, H, W)`.
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
    if _by_rows(window, q):
        # Sample by sample: padded keys and values of one at a time.
        samples = (slice(n, n + 1) for n in range(len(q)))
        parts = [_banded(window, q[n], k[n], v[n], None if bias is None else bias[n], value_bias) for n in samples]
        return torch.cat(parts) if len(parts) > 1 else parts[0]
    value = window.padded(v)
    parts = []
    for attention, _, first, last in _blocks(window, q, window.padded(k), bias):
        read = window.readout(attention, value, first, last)
        if value_bias is not None:
            read = read + torch.einsum("nhkyx,hdk->nhdyx", attention, value_bias)
        parts.append(read)
    return torch.cat(parts, 3).flatten(1, 2)


def _by_rows(window: Window, q: Tensor) -> bool:
    return window.dilation == 1 and q.shape[3] <= BAND_WIDTHS * window.side


def _banded(window: Window, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None) -> Tensor:
    batch, _, height, width = q.shape
    band = _Band(window, q, k, v, bias)
    out = band.value.new_empty(batch, height, width, window.heads, band.value.shape[-1])
    for n, head, first, last in band.blocks():
        scores, windows, attention = band.attention(n, head, first, last)
        scores.zero_()
        windows.copy_(attention.view_as(windows))
        read = torch.bmm(scores, band.rows_of(band.value, n, head, first, last), out=out[n, first:last, :, head])
        if value_bias is not None:
            read += attention @ value_bias[head].T
    return out.flatten(3).permute(0, 3, 1, 2)


def _banded_backward(
    window: Window, grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    band = _Band(window, q, k, v, bias)
    grad_out = _cells_last(window.by_head(grad), 0)
    delta = (grad_out * _cells_last(window.by_head(out), 0)).sum(-1, keepdim=True)
    grad_query, grad_key, grad_value = torch.empty_like(band.query), torch.zeros_like(band.key), torch.zeros_like(band.value)
    grad_bias = None if bias is None else torch.empty_like(bias)
    grad_value_bias = None if value_bias is None else torch.zeros_like(value_bias)
    for n, head, first, last in band.blocks():
        query, grad_rows = band.query[n, head, first:last], grad_out[n, head, first:last]
        scores, windows, attention = band.attention(n, head, first, last)
        torch.bmm(grad_rows, band.rows_of(band.value, n, head, first, last).transpose(1, 2), out=scores)
        grad_score = windows.flatten(2)
        if value_bias is not None and grad_value_bias is not None:
            grad_score += grad_rows @ value_bias[head]
            grad_value_bias[head] += grad_rows.flatten(0, 1).T @ attention.flatten(0, 1)
        grad_score = (grad_score - delta[n, head, first:last]).mul_(attention)
        if grad_bias is not None:
            grad_bias[n, head, :, first:last] = grad_score.permute(2, 0, 1)
        scores.zero_()
        for weights, left, into in ((attention, grad_rows, grad_value), (grad_score, query, grad_key)):
            windows.copy_(weights.view_as(windows))
            for row in range(last - first):  # the bands of neighbouring rows overlap, so their gradients add up one by one
                cells = into[n, head, first + row : first + row + window.side]
                cells.view(band.cells, -1).addmm_(scores[row].T, left[row])
        grad_query[n, head, first:last] = torch.bmm(scores, band.rows_of(band.key, n, head, first, last))
    pad, (height, width) = window.pad, q.shape[2:]
    inner = (slice(None), slice(None), slice(pad, pad + height), slice(pad, pad + width))
    found = (x.permute(0, 1, 4, 2, 3).flatten(1, 2) for x in (grad_query * window.scale, grad_key[inner], grad_value[inner]))
    grad_q, grad_k, grad_v = found
    return grad_q, grad_k, grad_v, grad_bias, grad_value_bias


class _Band:
    """What both directions of the banded way share: tensors with cells last, and the attention of a block of rows."""

    def __init__(self, window: Window, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        self.window, self.bias = window, bias
        self._outside: tuple[int, Tensor] | None = None
        self.height, self.width = q.shape[2:]
        self.query = _cells_last(window.by_head(q * window.scale), 0)
        self.key, self.value = _cells_last(window.by_head(k), window.pad), _cells_last(window.by_head(v), window.pad)
        self.columns = self.width + 2 * window.pad
        self.cells = window.side * self.columns  # of the rows that a row of pixels sees, with the padding on both sides

    def blocks(self) -> Iterator[tuple[int, int, int, int]]:
        """Yield sample, head, first row and end row."""
        step = max(1, BLOCK_BYTES // (4 * self.width * self.cells))
        for first in range(0, self.height, step):
            for n in range(self.query.shape[0]):
                for head in range(self.window.heads):
                    yield n, head, first, min(first + step, self.height)

    def rows_of(self, x: Tensor, n: int, head: int, first: int, last: int) -> Tensor:
        """Return the overlapping view `(rows, cells, D)` of keys or values: for each row of pixels those of the rows it sees."""
        own = x[n, head]
        stride = self.columns * own.shape[2]
        return own.as_strided(
            (last - first, self.cells, own.shape[2]), (stride, own.shape[2], 1), own.storage_offset() + first * stride
        )

    def attention(self, n: int, head: int, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return scores `(rows, W, cells)`, their strided view `(rows, W, side, side)`, and the attention `(rows, W, K)`."""
        scores = torch.bmm(self.query[n, head, first:last], self.rows_of(self.key, n, head, first, last).transpose(1, 2))
        side = self.window.side
        windows = scores.as_strided(
            (last - first, self.width, side, side), (self.width * self.cells, self.cells + 1, self.columns, 1)
        )  # pixel x sees columns x ... x + 2 m of each padded row
        attention = windows.flatten(2)
        if self.bias is not None:
            attention += self.bias[n, head, :, first:last].permute(1, 2, 0)
        if self._outside is None or self._outside[0] != first:  # once a block, for all samples and heads
            inside = self.window.inside(self.height, self.width, range(first, last), scores.device)
            self._outside = first, ~inside.permute(1, 2, 0)
        return scores, windows, torch.softmax(attention.masked_fill_(self._outside[1], -torch.inf), 2)


def _cells_last(x: Tensor, pad: int) -> Tensor:
    """Return `(N, heads, H + 2 pad, W + 2 pad, D)` of `(N, heads, D, H, W)`, zeros around it, contiguous."""
    n, heads, channels, height, width = x.shape
    out = x.new_zeros(n, heads, height + 2 * pad, width + 2 * pad, channels)
    out[:, :, pad : pad + height, pad : pad + width] = x.permute(0, 1, 3, 4, 2)
    return out


def backward(
    window: Window, grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of q, k, v, bias and value bias; the attention is computed anew block by block.

    With S = a (dA - sum a dA) per window (soft-max rule), where sum a dA = <grad, out> whatever the values are.
    """
    if _by_rows(window, q):
        return _banded_backward(window, grad, out, q, k, v, bias, value_bias)
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
