"""Triton: similarity, choice of the best memory nodes and their soft-max in one pass, and the readout that gathers them.

The similarity matrix exists one tile at a time, in registers. Twins: `topk_affinity` and `sparse_readout` on the torch path.
"""

# Kernel arguments are pointers and numbers of the device language.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_QUERIES = 16
_NODES = 64


@triton.jit
def _select(
    query,
    key,
    node_offset,
    query_offset,
    gain,
    weights,
    indices,
    queries,
    nodes,
    channels,
    query_b,
    query_q,
    query_c,
    key_b,
    key_c,
    key_n,
    offset_b,
    gain_b,
    kept: tl.constexpr,
    slots: tl.constexpr,
    width: tl.constexpr,
    block_q: tl.constexpr,
    block_n: tl.constexpr,
    has_node_offset: tl.constexpr,
    has_query_offset: tl.constexpr,
    has_gain: tl.constexpr,
):
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * block_q + tl.arange(0, block_q)
    channel = tl.arange(0, width)
    slot = tl.arange(0, slots)
    lane = tl.arange(0, block_n)
    q = tl.load(
        query + batch * query_b + rows[:, None].to(tl.int64) * query_q + channel[None, :] * query_c,
        mask=(rows[:, None] < queries) & (channel[None, :] < channels),
        other=0.0,
    )
    # Slots beyond `kept` hold +inf: they are never the worst one, so nothing is put there.
    best = tl.zeros((block_q, slots), tl.float32) + tl.where(slot < kept, -float("inf"), float("inf"))[None, :]
    place = tl.zeros((block_q, slots), tl.int32)
    for start in range(0, nodes, block_n):
        column = start + lane
        k = tl.load(
            key + batch * key_b + channel[:, None].to(tl.int64) * key_c + column[None, :] * key_n,
            mask=(channel[:, None] < channels) & (column[None, :] < nodes),
            other=0.0,
        )
        scores = tl.dot(q, k, input_precision="ieee")
        if has_node_offset:
            scores += tl.load(node_offset + batch * offset_b + column, mask=column < nodes, other=0.0)[None, :]
        if has_query_offset:
            scores += tl.load(query_offset + batch * queries + rows, mask=rows < queries, other=0.0)[:, None]
        if has_gain:
            scores *= tl.load(gain + batch * gain_b + column, mask=column < nodes, other=0.0)[None, :]
        scores = tl.where((column < nodes)[None, :], scores, -float("inf"))
        top = tl.max(scores, 1)
        worst = tl.min(best, 1)
        # Each turn moves at most one node per query into the place of its worst; later tiles seldom need a turn.
        while tl.max((top > worst).to(tl.int32), 0) > 0:
            better = top > worst
            chosen = tl.argmax(scores, 1)
            leaving = tl.argmin(best, 1)
            hit = (slot[None, :] == leaving[:, None]) & better[:, None]
            best = tl.where(hit, top[:, None], best)
            place = tl.where(hit, (start + chosen)[:, None].to(tl.int32), place)
            scores = tl.where(lane[None, :] == chosen[:, None], -float("inf"), scores)
            top = tl.max(scores, 1)
            worst = tl.min(best, 1)
    real = (slot < kept)[None, :]
    peak = tl.max(tl.where(real, best, -float("inf")), 1)
    share = tl.where(real, tl.exp(best - peak[:, None]), 0.0)
    share = share / tl.sum(share, 1)[:, None]
    target = (batch * queries + rows[:, None]) * kept + slot[None, :]
    stored = real & (rows[:, None] < queries)
    tl.store(weights + target, share, mask=stored)
    tl.store(indices + target, place.to(tl.int64), mask=stored)


@triton.jit
def _gather(weights, indices, rows, out, queries, width, kept, rows_b, block_q: tl.constexpr, block_d: tl.constexpr):
    batch = tl.program_id(2).to(tl.int64)
    query = tl.program_id(0) * block_q + tl.arange(0, block_q)
    channel = tl.program_id(1) * block_d + tl.arange(0, block_d)
    inside = query < queries
    both = inside[:, None] & (channel[None, :] < width)
    total = tl.zeros((block_q, block_d), tl.float32)
    for index in range(kept):
        at = (batch * queries + query) * kept + index
        node = tl.load(indices + at, mask=inside, other=0)
        weight = tl.load(weights + at, mask=inside, other=0.0)
        value = tl.load(rows + batch * rows_b + node[:, None] * width + channel[None, :], mask=both, other=0.0)
        total += weight[:, None] * value.to(tl.float32)
    tl.store(out + (batch * queries + query[:, None]) * width + channel[None, :], total, mask=both)


def select(
    query: Tensor,
    key: Tensor,
    k: int,
    *,
    node_offset: Tensor | None = None,
    query_offset: Tensor | None = None,
    gain: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return weights and indices `(B, Q, K)` of the `k` nodes with the largest (query @ key + offsets) * gain.

    Args:
        query: float32 `(B, Q, C)`.
        key: float32 `(B, C, N)`.
        k: nodes to keep, at most N.
        node_offset: `(B, 1, N)`, contiguous in N.
        query_offset: `(B, Q, 1)`.
        gain: `(B, 1, N)`, contiguous in N.
    """
    batch, queries, channels = query.shape
    nodes = key.shape[2]
    weights = torch.empty(batch, queries, k, device=query.device)
    indices = torch.empty(batch, queries, k, dtype=torch.int64, device=query.device)
    query_offset = None if query_offset is None else query_offset.contiguous()
    _select[triton.cdiv(queries, _QUERIES), batch](
        query,
        key,
        node_offset,
        query_offset,
        gain,
        weights,
        indices,
        queries,
        nodes,
        channels,
        *query.stride(),
        *key.stride(),
        0 if node_offset is None else node_offset.stride(0),
        0 if gain is None else gain.stride(0),
        kept=k,
        slots=triton.next_power_of_2(k),
        width=max(16, triton.next_power_of_2(channels)),
        block_q=_QUERIES,
        block_n=_NODES,
        has_node_offset=node_offset is not None,
        has_query_offset=query_offset is not None,
        has_gain=gain is not None,
    )
    return weights, indices


def gather(weights: Tensor, indices: Tensor, rows: Tensor) -> Tensor:
    """Return `(B, Q, D)`, the sum of `rows` `(B, N, D)` at `indices` times `weights`, both `(B, Q, K)`; float32 sums."""
    batch, queries, kept = indices.shape
    width = rows.shape[2]
    rows = rows if rows.stride(2) == 1 and rows.stride(1) == width else rows.contiguous()
    out = torch.empty(batch, queries, width, dtype=rows.dtype, device=rows.device)
    block_d = min(128, triton.next_power_of_2(width))
    grid = (triton.cdiv(queries, _QUERIES), triton.cdiv(width, block_d), batch)
    _gather[grid](
        weights.contiguous(),
        indices.contiguous(),
        rows,
        out,
        queries,
        width,
        kept,
        rows.stride(0),
        block_q=_QUERIES,
        block_d=block_d,
    )
    return out
