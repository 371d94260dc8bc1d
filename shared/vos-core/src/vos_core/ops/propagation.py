"""Neighbourhood label propagation: labels flow from context frames to a target frame along feature similarity."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError
from vos_core.ops.affinity import TILE_BYTES
from vos_core.ops.backend import full_precision


def propagate_labels(
    target: Tensor,
    sources: Tensor,
    labels: Tensor,
    *,
    k: int,
    temperature: float = 0.1,
    neighbourhood: int = 0,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """Return the target's labels, `(C, h, w)`: weighted means over the `k` most similar cells of all context frames.

    A cell weighs exp(cosine / temperature); ties with the k-th weight are all kept (DINO, RSP). Query rows are
    taken in blocks and see only the source rows that their window reaches, so the full affinity never exists.

    Args:
        target: features `(D, h, w)`; their length does not matter.
        sources: features of the context frames `(T, D, h, w)`.
        labels: soft or one-hot labels of the context frames `(T, C, h, w)`.
        k: cells to keep over all context frames together.
        temperature: of the exponential.
        neighbourhood: sources farther than this many rows or columns from the target cell weigh 0; 0 = no limit.
        tile_bytes: bound of the affinities that exist at a time, in bytes; one row of cells at least.
    """
    frames, _, height, width = sources.shape
    if target.shape != sources.shape[1:] or labels.shape[::2] != (frames, height) or labels.shape[3] != width:
        raise UsageError(
            f"label propagation got target {tuple(target.shape)}, sources {tuple(sources.shape)}, labels {tuple(labels.shape)}",
            expected="(D, h, w), (T, D, h, w) and (T, C, h, w)",
        )
    target, sources = F.normalize(target.float(), dim=0), F.normalize(sources.float(), dim=1)
    reach = neighbourhood or max(height, width)
    block = max(1, tile_bytes // (4 * width * frames * min(height, 2 * reach + 1) * width))
    column = torch.arange(width, device=target.device)
    row = torch.arange(height, device=target.device)
    rows = []
    with full_precision(target):
        for first in range(0, height, block):
            last = min(first + block, height)
            low, high = max(0, first - reach), min(height, last + reach)
            query = target[:, first:last].flatten(1).t() / temperature
            seen = sources[:, :, low:high].transpose(0, 1).flatten(1)
            scores = query @ seen
            if neighbourhood:
                near_row = (row[first:last, None] - row[None, low:high]).abs() <= neighbourhood
                near_column = (column[:, None] - column[None, :]).abs() <= neighbourhood
                near = (near_row[:, None, None, :, None] & near_column[None, :, None, None, :]).expand(-1, -1, frames, -1, -1)
                scores.masked_fill_(~near.reshape(scores.shape), -torch.inf)
            best = torch.topk(scores, min(k, scores.shape[1]), 1).values
            # Fewer cells in reach than k: the k-th weight is 0 and keeps everything, weights of 0 included.
            scores.masked_fill_(scores < best[:, -1:], -torch.inf)
            weights = torch.softmax(scores, 1)
            rows.append(weights @ labels[:, :, low:high].float().transpose(0, 1).flatten(1).t())
    return torch.cat(rows).t().reshape(labels.shape[1], height, width)
