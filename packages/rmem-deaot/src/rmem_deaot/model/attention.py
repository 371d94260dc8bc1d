"""Attention over tokens `(B, L, C)`: dense, per memory frame measurable, and local.

Letters: B batch (samples in training, groups of objects in inference), L tokens of the current map, K memory tokens.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vos_core.ops.window import local_attention

MAX_DISTANCE = 7
"""The local window reaches that many cells to each side: 15 x 15."""
WINDOW_CELLS = (2 * MAX_DISTANCE + 1) ** 2
BLOCK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}
"""How much of an attention matrix exists at a time outside training, by kind of device."""


class Size(NamedTuple):
    """Height and width of the stride-16 map, in cells."""

    height: int
    width: int


def to_map(tokens: Tensor, size: Size) -> Tensor:
    """Return `(B, C, h, w)` of tokens `(B, L, C)`: a channels-last view, no copy."""
    return tokens.reshape(len(tokens), *size, tokens.shape[2]).permute(0, 3, 1, 2)


def to_tokens(map_: Tensor) -> Tensor:
    """Return `(B, L, C)` of `(B, C, h, w)`; a view if the map is channels-last."""
    return map_.permute(0, 2, 3, 1).flatten(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, *, heads: int) -> Tensor:
    """Return soft-max attention `(B, L, Dv)`.

    Args:
        query: `(B, L, D)`.
        key: `(B, K, D)`.
        value: `(B, K, Dv)`.
        heads: attention heads; the scale is 1 / sqrt(D / heads).
    """
    if heads == 1 and not torch.is_grad_enabled():
        return attend_frames(query, key, value, frames=0)[0]
    q, k, v = (_by_head(x, heads) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_frames(query: Tensor, key: Tensor, value: Tensor, *, frames: int) -> tuple[Tensor, Tensor | None]:
    """Return single-head attention `(B, L, Dv)` and how much of it each memory frame got, float32 `(B, L, frames)`.

    Rows of queries are worked on in blocks that share one buffer, so that no attention matrix of a whole frame exists; with
    values far wider than keys (DeAOT: 1024 and 128) two plain products beat fused kernels, which want equal widths. For use
    without gradients.

    Args:
        query: `(B, L, D)`.
        key: `(B, frames * L', D)`, frame by frame.
        value: `(B, frames * L', Dv)`.
        frames: how many; 0 = do not measure.
    """
    batch, length, width = query.shape
    scaled, keys = query * (1 / math.sqrt(width)), key.transpose(1, 2)
    out = value.new_empty(batch, length, value.shape[2])
    mass = query.new_empty(batch, length, frames, dtype=torch.float32) if frames else None
    step = min(length, _rows_at_once(query, 4 * batch * key.shape[1]))
    block = query.new_empty(batch * step * key.shape[1])
    for first in range(0, length, step):
        rows = slice(first, min(first + step, length))
        shape = (batch, rows.stop - first, key.shape[1])
        scores = torch.bmm(scaled[:, rows], keys, out=block[: math.prod(shape)].view(shape))
        weights = torch.softmax(scores, 2, out=scores)  # row by row; summed in float32 whatever the dtype
        if mass is not None:
            by_frame = weights.view(*weights.shape[:2], frames, -1)
            mass[:, rows] = by_frame.sum(3, dtype=torch.float32)
        torch.bmm(weights, value, out=out[:, rows])
    return out, mass


def frame_mass(query: Tensor, key: Tensor, *, heads: int, frames: int) -> Tensor:
    """Return how much of the attention each memory frame gets, mean over heads, float32 `(B, L, frames)`; rows sum to 1.

    Computed from the log-sum-exp of each frame's scores, a block of rows at a time.

    Args:
        query: `(B, L, D)`.
        key: `(B, frames * L', D)`, frame by frame.
        heads: attention heads.
        frames: how many.
    """
    q, k = _by_head(query, heads), _by_head(key, heads)
    scaled, keys = q * (1 / math.sqrt(q.shape[3])), k.transpose(2, 3)
    step = _rows_at_once(query, 4 * heads * len(query) * key.shape[1])
    parts = []
    for first in range(0, query.shape[1], step):
        scores = torch.matmul(scaled[:, :, first : first + step], keys).float()
        by_frame = scores.view(*scores.shape[:3], frames, -1)
        parts.append(torch.softmax(by_frame.logsumexp(4), 3).mean(1))
    return torch.cat(parts, 1)


def _by_head(tokens: Tensor, heads: int) -> Tensor:
    """Return `(B, heads, L, D)` of tokens `(B, L, heads * D)`."""
    return tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)


def _rows_at_once(query: Tensor, row_bytes: int) -> int:
    return max(1, BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"]) // row_bytes)


class DepthwiseConv(nn.Module):
    """A 5 x 5 filter per channel without bias, then dropout of whole channels in training.

    Args:
        channels: of the tokens.
        dropout: chance that a channel is dropped.
    """

    def __init__(self, channels: int, *, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.dropout = nn.Dropout2d(dropout)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """Return filtered tokens `(B, L, C)`."""
        return to_tokens(self.dropout(self.conv(to_map(tokens, size))))


class GatedOutput(nn.Module):
    """What gated propagation does after reading: gate, filter, project (DeAOT, eq. 5).

    Args:
        channels: of values and gate.
        out_channels: of the result.
        dropout: see `DepthwiseConv`.
    """

    def __init__(self, channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.dw_conv = DepthwiseConv(channels, dropout=dropout)
        self.projection = nn.Linear(channels, out_channels)

    def forward(self, read: Tensor, gate: Tensor, size: Size) -> Tensor:
        """Return `(B, L, out_channels)` of what was read and its gate, both `(B, L, channels)`."""
        out: Tensor = self.projection(self.dw_conv(read * gate, size))
        return out


class GatedLocalAttention(GatedOutput):
    """Single-head attention in a 15 x 15 window around each cell, gated (short-term path of DeAOT).

    Args:
        key_channels: of queries and keys.
        channels: of values and gate.
        out_channels: of the result.
        dropout: see `DepthwiseConv`.
    """

    def __init__(self, key_channels: int, channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__(channels, out_channels, dropout=dropout)
        self.relative_emb_k = nn.Conv2d(key_channels, WINDOW_CELLS, 1)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, gate: Tensor, size: Size) -> Tensor:
        """Return `(B, L, out_channels)`; arguments are tokens, the relative bias comes from the unscaled query."""
        q, k, v = (to_map(x, size) for x in (query, key, value))
        bias = self.relative_emb_k(q).unsqueeze(1)
        read = local_attention(q, k, v, heads=1, max_dis=MAX_DISTANCE, bias=bias)
        return self(to_tokens(read), gate, size)


class ProjectedRead(nn.Module):
    """Multi-head attention whose queries, keys and values are given: only the output is projected (AOT).

    Args:
        channels: of the tokens.
        heads: attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projection = nn.Linear(channels, channels)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `(B, L, channels)`."""
        out: Tensor = self.projection(attend(query, key, value, heads=self.heads))
        return out


class MultiheadAttention(ProjectedRead):
    """Multi-head attention with its own projections.

    Args:
        channels: of the tokens.
        heads: attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads)
        self.linear_Q = nn.Linear(channels, channels)
        self.linear_K = nn.Linear(channels, channels)
        self.linear_V = nn.Linear(channels, channels)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `(B, L, channels)` of three `(B, L, channels)`."""
        return self.attend(self.linear_Q(query), self.linear_K(key), self.linear_V(value))


class LocalAttention(nn.Module):
    """Multi-head attention in a 15 x 15 window with relative biases on scores and values (short-term path of AOT).

    Args:
        channels: of the tokens.
        heads: attention heads.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_emb_v = nn.Parameter(torch.zeros(heads, channels // heads, WINDOW_CELLS))
        self.relative_emb_k = nn.Conv2d(channels, heads * WINDOW_CELLS, 1, groups=heads)
        self.projection = nn.Linear(channels, channels)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, size: Size) -> Tensor:
        """Return `(B, L, channels)` of tokens."""
        q, k, v = (to_map(x, size) for x in (query, key, value))
        bias = self.relative_emb_k(q).unflatten(1, (self.heads, WINDOW_CELLS))
        read = local_attention(q, k, v, heads=self.heads, max_dis=MAX_DISTANCE, bias=bias, value_bias=self.relative_emb_v)
        out: Tensor = self.projection(to_tokens(read))
        return out
