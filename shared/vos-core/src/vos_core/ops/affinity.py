"""Matching a query frame against a memory: similarity, soft-max over all or the best nodes, readout with bounded memory.

Letters: B batch, C key channels, N memory nodes, Q query nodes, D value channels (of all objects together), K kept nodes.
Similarities are `(B, N, Q)` as in the papers but lie query-major in memory, because every reduction runs over the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.ops.backend import backend_of, full_precision
from vos_core.ops.match import Match, match_terms

TILE_BYTES = 8 * 2**20
"""How much of a similarity matrix exists at a time, in bytes."""
_GROUP = 8
_GROUPED_FROM = 4096


class TopK(NamedTuple):
    """The memory nodes that each query node listens to.

    Args:
        weights: float32 `(B, Q, K)`, 0-1, summing to 1 over K.
        indices: int64 `(B, Q, K)`, memory nodes in no particular order.
    """

    weights: Tensor
    indices: Tensor


def similarity(key: Tensor, query: Tensor, *, shrinkage: Tensor | None = None, selection: Tensor | None = None) -> Tensor:
    """Return how well memory and query nodes match, float32 `(B, N, Q)`.

    Without selection it is (2 k.q - |k|^2) / sqrt(C), times the shrinkage of the node: the negative squared distance less
    |q|^2, which no soft-max over nodes sees (STCN). With selection e it is s (2 k.(q e) - k^2.e - sum e q^2) / sqrt(C) (XMem).

    Args:
        key: `(B, C, ...)`, memory nodes in the trailing dimensions.
        query: `(B, C, ...)`.
        shrinkage: `(B, 1, ...)`, one positive number per memory node.
        selection: like `query`, channel weights 0-1 per query node.
    """
    with full_precision(key):
        terms = match_terms(key, query, shrinkage, selection)
        return terms.rows(0, terms.query.shape[1]).transpose(1, 2)


def dense_affinity(key: Tensor, query: Tensor, *, shrinkage: Tensor | None = None, selection: Tensor | None = None) -> Tensor:
    """Return the soft-max of `similarity` over *all* memory nodes, float32 `(B, N, Q)`; for training, with gradients."""
    return torch.softmax(similarity(key, query, shrinkage=shrinkage, selection=selection), 1)


def dense_readout(affinity: Tensor, values: Tensor) -> Tensor:
    """Return what each query node reads, `(B, ..., Q)`.

    Args:
        affinity: `(B, N, Q)`.
        values: `(B, ..., N)`, for example `(B, objects, channels, N)`.
    """
    read = torch.bmm(values.flatten(1, -2).to(affinity.dtype), affinity)
    return read.reshape(*values.shape[:-1], affinity.shape[2])


def topk_softmax(sim: Tensor, k: int) -> TopK:
    """Return the soft-max over the `k` most similar memory nodes of each query node (over all when there are fewer).

    The maximum is subtracted before the exponential, so large similarities do not overflow. Ties at the last place may go
    either way.

    Args:
        sim: `(B, N, Q)`.
        k: nodes to keep, 1 or more.
    """
    return _topk_of_rows(sim.transpose(1, 2), k)


def topk_affinity(
    key: Tensor,
    query: Tensor,
    k: int,
    *,
    shrinkage: Tensor | None = None,
    selection: Tensor | None = None,
    tile_bytes: int = TILE_BYTES,
) -> TopK:
    """Return `topk_softmax` of `similarity` without ever storing the whole `(B, N, Q)` matrix.

    Args:
        key: as in `similarity`, like query, shrinkage and selection.
        query: `(B, C, ...)`.
        k: nodes to keep.
        shrinkage: `(B, 1, ...)` or None.
        selection: `(B, C, ...)` or None.
        tile_bytes: bound of the similarities that exist at a time, in bytes.
    """
    found = topk_affinity_since(key, query, k, starts=(0,), shrinkage=shrinkage, selection=selection, tile_bytes=tile_bytes)
    return found[0]


def topk_affinity_since(
    key: Tensor,
    query: Tensor,
    k: int,
    *,
    starts: Sequence[int],
    shrinkage: Tensor | None = None,
    selection: Tensor | None = None,
    tile_bytes: int = TILE_BYTES,
) -> list[TopK]:
    """Return one `TopK` per start, each over the memory nodes from that start on, from one similarity.

    An object that entered later remembers a suffix of the oldest object's memory. Indices count from the first node of `key`.

    Args:
        key, query, shrinkage, selection, k, tile_bytes: as in `topk_affinity`.
        starts: first memory node of each suffix, 0 ... N - 1.
    """
    parts: list[list[TopK]] = [[] for _ in starts]
    with full_precision(key):
        terms = match_terms(key, query, shrinkage, selection)
        if _on_triton(terms.query, terms.key, terms.gain):
            return [_select_triton(terms, k, start) for start in starts]
        for first, last in terms.tiles(tile_bytes):
            rows = terms.rows(first, last)
            for part, start in zip(parts, starts, strict=True):
                found = _topk_of_rows(rows[:, :, start:], k)
                part.append(TopK(found.weights, found.indices + start) if start else found)
    return [_concatenate(part) for part in parts]


def kernel_topk_affinity(
    key: Tensor, query: Tensor, k: int, *, grid: tuple[int, int], sigma: float, tile_bytes: int = TILE_BYTES
) -> TopK:
    """Return the kernelised memory read: nodes count less the farther a query lies from the query that suits them best.

    With d the distance, in cells, of a query from the query node most similar to the memory node, the weights are
    exp(S) exp(-d^2 / (2 sigma^2)) over the `k` largest such products, normalised (KMN; STCN's multi-scale runs).

    Args:
        key: `(B, C, ...)`.
        query: `(B, C, h, w)` or `(B, C, h * w)`.
        k: nodes to keep.
        grid: (h, w) of the query.
        sigma: width of the Gaussian in cells.
        tile_bytes: as in `topk_affinity`.
    """
    with full_precision(key):
        terms = match_terms(key, query, None, None)
        # Here similarities of different queries are compared, so the |q|^2 term counts.
        norm = query.float().flatten(2).square().sum(1).unsqueeze(2) / math.sqrt(query.shape[1])
        best: Tensor | None = None
        place = torch.zeros(0)
        for first, last in terms.tiles(tile_bytes):
            top, where = (terms.rows(first, last) - norm[:, first:last]).max(1)
            if best is None:
                best, place = top, where
            else:
                place = torch.where(top > best, where + first, place)
                best = torch.maximum(best, top)
        node = torch.arange(grid[0] * grid[1], device=key.device)
        row, column = node // grid[1], node % grid[1]
        parts = []
        for first, last in terms.tiles(tile_bytes):
            apart = (row[None, first:last, None] - row[place][:, None]).square()
            apart += (column[None, first:last, None] - column[place][:, None]).square()
            parts.append(_topk_of_rows(terms.rows(first, last) - apart / (2 * sigma**2), k))
    return _concatenate(parts)


def value_rows(values: Tensor) -> Tensor:
    """Return values `(B, ..., N)` as contiguous rows `(B, N, D)`, the layout that `sparse_readout` gathers from.

    A memory should hold its values as rows from the start: turning them costs a copy of the whole memory.
    """
    return values.flatten(1, -2).transpose(1, 2).contiguous()


def sparse_readout(affinity: TopK, rows: Tensor) -> Tensor:
    """Return the weighted sum of the kept memory nodes, `(B, Q, D)`: K / N of the work of the dense product.

    Args:
        affinity: of Q query nodes.
        rows: `(B, N, D)`, see `value_rows`; N may be a prefix of a larger buffer.
    """
    batch, queries = affinity.indices.shape[:2]
    if _on_triton(rows, affinity.weights):
        from vos_core.ops.kernels.topk_readout import gather

        return gather(affinity.weights, affinity.indices, rows)
    read = []
    for index in range(batch):
        # embedding_bag gathers and sums in one pass: no (Q, K, D) copy, 20 times faster than indexing on a CPU.
        weights = affinity.weights[index].to(rows.dtype)
        read.append(F.embedding_bag(affinity.indices[index], rows[index], per_sample_weights=weights, mode="sum"))
    return torch.stack(read) if batch > 1 else read[0].view(1, queries, -1)


def topk_readout(
    key: Tensor,
    query: Tensor,
    values: Tensor,
    k: int,
    *,
    shrinkage: Tensor | None = None,
    selection: Tensor | None = None,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """Return what each query node reads from its `k` most similar memory nodes, `(B, ..., Q)`.

    Args:
        key, query, shrinkage, selection, k, tile_bytes: as in `topk_affinity`.
        values: `(B, ..., N)`, for example `(B, objects, channels, N)`; one affinity serves all objects.
    """
    found = topk_affinity(key, query, k, shrinkage=shrinkage, selection=selection, tile_bytes=tile_bytes)
    read = sparse_readout(found, value_rows(values))
    return read.transpose(1, 2).reshape(*values.shape[:-1], read.shape[1])


def densify(affinity: TopK, nodes: int) -> Tensor:
    """Return the affinity as a matrix `(B, N, Q)` with zeros where nothing is kept; for inspection and tests."""
    batch, queries, _ = affinity.indices.shape
    dense = affinity.weights.new_zeros(batch, queries, nodes)
    return dense.scatter_(2, affinity.indices, affinity.weights).transpose(1, 2)


def usage(affinity: TopK, nodes: int) -> Tensor:
    """Return how much each memory node was read, `(B, N)`: its weights summed over the query nodes."""
    total = affinity.weights.new_zeros(affinity.weights.shape[0], nodes)
    return total.scatter_add_(1, affinity.indices.flatten(1), affinity.weights.flatten(1))


def _topk_of_rows(rows: Tensor, k: int) -> TopK:
    scores, indices = _largest(rows, min(k, rows.shape[2]))
    return TopK(torch.softmax(scores.float(), 2), indices)


def _largest(rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the `k` largest of the last dimension of `(B, Q, N)` and where they are, unsorted.

    For long rows on a CPU: the k largest lie in the k groups with the largest maxima, and group maxima cost one pass.
    """
    nodes = rows.shape[2]
    if rows.is_cuda or nodes < _GROUPED_FROM or nodes < 4 * k * _GROUP:
        return torch.topk(rows, k, 2, sorted=False)
    groups = nodes // _GROUP
    whole = groups * _GROUP
    # Members of a group lie `groups` apart, so that the maximum runs over an outer dimension and vectorises.
    peaks = rows[:, :, :whole].view(*rows.shape[:2], _GROUP, groups).amax(2)
    members = torch.arange(_GROUP, device=rows.device).unsqueeze(1) * groups
    candidates = (torch.topk(peaks, k, 2, sorted=False).indices.unsqueeze(2) + members).flatten(2)
    if whole < nodes:
        rest = torch.arange(whole, nodes, device=rows.device).expand(*rows.shape[:2], -1)
        candidates = torch.cat((candidates, rest), 2)
    scores, places = torch.topk(rows.gather(2, candidates), k, 2, sorted=False)
    return scores, candidates.gather(2, places)


def _on_triton(*tensors: Tensor | None) -> bool:
    given = [tensor for tensor in tensors if tensor is not None]
    # The kernels have no backward pass: training reads from all nodes, and a gradient through top-k goes the torch way.
    wants_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given)
    return not wants_gradient and backend_of("topk_readout", given[0]) == "triton"


def _select_triton(terms: Match, k: int, start: int) -> TopK:
    from vos_core.ops.kernels.topk_readout import select

    node_offset, gain = (None if x is None else x[..., start:] for x in (terms.node_offset, terms.gain))
    key = terms.key[..., start:]
    found = select(terms.query, key, min(k, key.shape[2]), node_offset=node_offset, query_offset=terms.query_offset, gain=gain)
    return TopK(found[0], found[1] + start)


def _concatenate(parts: Sequence[TopK]) -> TopK:
    if len(parts) == 1:
        return parts[0]
    return TopK(torch.cat([part.weights for part in parts], 1), torch.cat([part.indices for part in parts], 1))
