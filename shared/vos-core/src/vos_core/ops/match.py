"""The similarity of memory and query nodes before it is computed: what one matrix product needs, tile by tile.

Letters: B batch, C key channels, N memory nodes, Q query nodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Match(NamedTuple):
    """Similarity, not yet computed, as one product: (query @ key + node_offset + query_offset) * gain.

    Args:
        query: `(B, Q, C)`.
        key: `(B, C, N)`.
        node_offset: `(B, 1, N)`.
        query_offset: `(B, Q, 1)`.
        gain: `(B, 1, N)`.
    """

    query: Tensor
    key: Tensor
    node_offset: Tensor | None
    query_offset: Tensor | None
    gain: Tensor | None

    def rows(self, start: int, stop: int) -> Tensor:
        """Return similarities of some query nodes, `(B, stop - start, N)`."""
        query = self.query[:, start:stop]
        scores = torch.bmm(query, self.key) if self.node_offset is None else torch.baddbmm(self.node_offset, query, self.key)
        if self.query_offset is not None:
            scores = scores + self.query_offset[:, start:stop]
        return scores if self.gain is None else scores * self.gain

    def tiles(self, tile_bytes: int) -> Iterator[tuple[int, int]]:
        """Yield query ranges whose similarities fit into `tile_bytes`, at least one node each."""
        queries = self.query.shape[1]
        step = max(1, tile_bytes // (4 * self.key.shape[0] * self.key.shape[2]))
        for start in range(0, queries, step):
            yield start, min(start + step, queries)


def match_terms(key: Tensor, query: Tensor, shrinkage: Tensor | None, selection: Tensor | None) -> Match:
    """Return the terms of `similarity`, whose arguments these are."""
    key, query = key.float().flatten(2), query.float().flatten(2)
    scale = 1 / math.sqrt(key.shape[1])
    gain = None if shrinkage is None else shrinkage.float().flatten(2)
    if selection is None:
        norm = key.square().sum(1, keepdim=True)
        return Match((query * (2 * scale)).transpose(1, 2), key, norm * -scale, None, gain)
    chosen = selection.float().flatten(2)
    both = torch.cat((query * chosen * (2 * scale), chosen * -scale), 1).transpose(1, 2)
    offset = (chosen * query.square()).sum(1).unsqueeze(2) * -scale
    return Match(both, torch.cat((key, key.square()), 1), None, offset, gain)
