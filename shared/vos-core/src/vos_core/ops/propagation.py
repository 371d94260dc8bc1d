"""Neighbourhood label propagation: labels flow from context frames to a target frame along feature similarity.

Letters: T context frames, L tokens of a frame, Q of them at a time, D feature channels, C labels, K kept sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError
from vos_core.ops.affinity import TopK, sparse_readout
from vos_core.ops.backend import full_precision

TILE_BYTES = 16 * 2**20
"""How much of the affinity exists at a time, in bytes."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which source tokens a target token may listen to.

    Args:
        reach: in tokens.
        shape: `square`: at most `reach` rows and columns away (DINO, RSP); `disc`: less than `reach` away (videowalk).
    """

    reach: float
    shape: Literal["square", "disc"] = "square"

    def near(self, rows: Tensor, columns: Tensor, other_rows: Tensor, other_columns: Tensor) -> Tensor:
        """Return whether tokens see each other, bool `(Q, N)`, from their places `(Q,)` and `(N,)`."""
        row = (rows[:, None] - other_rows[None]).abs()
        column = (columns[:, None] - other_columns[None]).abs()
        if self.shape == "square":
            return (row <= self.reach) & (column <= self.reach)
        return row.square() + column.square() < self.reach**2


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

    A cell weighs exp(cosine / temperature); ties with the k-th weight are all kept (DINO, RSP). See `propagate_tokens`, which
    takes what a memory would hold.

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
    out = propagate_tokens(
        F.normalize(target.float(), dim=0).flatten(1).t().contiguous(),
        F.normalize(sources.float(), dim=1).flatten(2).transpose(1, 2).contiguous(),
        labels.float().flatten(2).transpose(1, 2).contiguous(),
        grid=(height, width),
        k=k,
        temperature=temperature,
        window=Window(neighbourhood) if neighbourhood else None,
        tile_bytes=tile_bytes,
    )
    return out.t().reshape(labels.shape[1], height, width)


def propagate_tokens(
    query: Tensor,
    keys: Tensor,
    labels: Tensor,
    *,
    grid: tuple[int, int],
    k: int,
    temperature: float,
    window: Window | None = None,
    free_frames: int = 0,
    ties: Literal["keep", "drop"] = "keep",
    candidates: int = 32,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """Return the labels of one frame's tokens, float32 `(L, C)`: soft-max weighted means over the `k` most similar sources.

    The full affinity never exists: blocks of queries see only the rows that their window reaches. Of each token place only the
    best context frame is looked at until the `k` places are known that can hold the `k` best sources, so the selection reads the
    affinity once.

    Args:
        query: features of unit length `(L, D)`, float32.
        keys: of the context frames, unit length, `(T, L, D)`. In half precision the affinity is computed in it, and the
            `candidates` best sources are compared again in float32.
        labels: of the context frames, float32 `(T, L, C)`.
        grid: (rows, columns) of the L tokens.
        k: sources to keep over all context frames together.
        temperature: similarities are divided by it.
        window: limit of the distance between target and source; None = no limit.
        free_frames: leading context frames that the window does not limit.
        ties: `keep` all sources as similar as the k-th (DINO, RSP), or `drop` all but k.
        candidates: see `keys`; at least `k` are taken.
        tile_bytes: bound of the affinities, and of the candidates' features, that exist at a time, in bytes; one row of tokens
            at least.

    Raises:
        UsageError: shapes that do not fit.
    """
    frames, tokens, channels = keys.shape
    height, width = grid
    if query.shape != (tokens, channels) or labels.shape[:2] != (frames, tokens) or tokens != height * width:
        raise UsageError(
            f"propagation got query {tuple(query.shape)}, keys {tuple(keys.shape)}, labels {tuple(labels.shape)}, grid {grid}",
            expected="(L, D), (T, L, D), (T, L, C) and L = rows * columns",
        )
    search = _Search(query, keys, labels, grid, k, temperature, window, min(free_frames, frames), ties, max(candidates, k))
    reach = height if window is None else min(height, int(window.reach))
    row_bytes = keys.element_size() * width * frames * min(height, 2 * reach + 1) * width
    if keys.dtype != torch.float32:  # candidates that are compared again are there twice; with few frames they are more
        row_bytes = max(row_bytes, width * max(candidates, k) * channels * (keys.element_size() + 4))
    block = max(1, tile_bytes // row_bytes)
    with full_precision(query):
        return torch.cat([search.rows(first, min(first + block, height), reach) for first in range(0, height, block)])


@dataclass(frozen=True, slots=True)
class _Search:
    """The arguments of `propagate_tokens`, and the work on one block of rows."""

    query: Tensor
    keys: Tensor
    labels: Tensor
    grid: tuple[int, int]
    k: int
    temperature: float
    window: Window | None
    free: int
    ties: Literal["keep", "drop"]
    candidates: int

    def rows(self, first: int, last: int, reach: int) -> Tensor:
        """Return the labels of the tokens in rows `first` to `last` of the grid."""
        height, width = self.grid
        tokens = height * width
        query = self.query[first * width : last * width]
        half = self.keys.dtype != torch.float32
        found = self.candidates if half else self.k
        matched = query.to(self.keys.dtype)
        parts = []
        for frame in range(self.free):
            scores = matched @ self.keys[frame].t()
            parts.append(_best_places(scores.unsqueeze(0), found, None, frame * tokens, tokens))
        if self.free < len(self.keys):
            low, high = max(0, first - reach), min(height, last + reach)
            seen = self.keys[self.free :, low * width : high * width]
            near = self._near(first, last, low, high)
            scores = matched @ seen.transpose(1, 2)
            parts.append(_best_places(scores, found, near, self.free * tokens + low * width, tokens))
        values, places = (torch.cat(items, 1) for items in list(zip(*parts, strict=True))[:2])
        if half or self.ties == "drop":
            chosen = torch.topk(values, min(found, values.shape[1]), 1)
            values, places = chosen.values.float(), places.gather(1, chosen.indices)
        else:
            values = values.float()
        if half:
            exact = torch.einsum("qd,qkd->qk", query, self.keys.flatten(0, 1)[places].float())
            values = exact.masked_fill(values == -torch.inf, -torch.inf)
        if self.ties == "drop":
            best = torch.topk(values, min(self.k, values.shape[1]), 1)
            values, places = best.values, places.gather(1, best.indices)
        kth = torch.topk(values, min(self.k, values.shape[1]), 1).values[:, -1:].clamp(min=torch.finfo(torch.float32).min)
        # Fewer sources in reach than k: all of them count, and nothing else.
        values = values.masked_fill(values < kth, -torch.inf)
        weights = torch.softmax(values / self.temperature, 1)
        labels = self.labels.flatten(0, 1)
        out = sparse_readout(TopK(weights.unsqueeze(0), places.unsqueeze(0)), labels.unsqueeze(0))[0]
        if self.ties == "keep" and not half:
            # A place that was left out may hold a source as similar as the k-th only where more than k places reach it.
            tied = torch.stack([(peaks >= kth).sum(1) > count for *_, peaks, count in parts]).any(0).nonzero()[:, 0]
            if len(tied):
                out[tied] = self._whole(query[tied], first * width + tied)
        return out

    def _near(self, first: int, last: int, low: int, high: int) -> Tensor | None:
        if self.window is None:
            return None
        width = self.grid[1]
        ours = torch.arange(first * width, last * width, device=self.query.device)
        theirs = torch.arange(low * width, high * width, device=self.query.device)
        return self.window.near(ours // width, ours % width, theirs // width, theirs % width)

    def _whole(self, query: Tensor, place: Tensor) -> Tensor:
        """Return the labels of some tokens from all sources at once, ties and all."""
        tokens, width = self.keys.shape[1], self.grid[1]
        scores = torch.einsum("qd,tld->qtl", query, self.keys)
        if self.window is not None:
            other = torch.arange(tokens, device=query.device)
            near = self.window.near(place // width, place % width, other // width, other % width)
            scores[:, self.free :].masked_fill_(~near.unsqueeze(1), -torch.inf)
        flat = scores.flatten(1)
        kth = torch.topk(flat, min(self.k, flat.shape[1]), 1).values[:, -1:]
        flat.masked_fill_(flat < kth, -torch.inf)
        return torch.softmax(flat / self.temperature, 1) @ self.labels.flatten(0, 1)


def _best_places(scores: Tensor, k: int, near: Tensor | None, offset: int, tokens: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Return the scores of all frames at the k best places of each query, and which sources they are.

    The k best sources lie at the k places with the largest maxima over frames.

    Args:
        scores: `(T, Q, N)`.
        k: places.
        near: allowed places, `(Q, N)`.
        offset: source number of the first place in the first frame.
        tokens: L, by which the sources of one place are apart.

    Returns:
        Scores and source numbers `(Q, T * k)`, the maxima over frames `(Q, N)`, and the number of places.
    """
    frames = scores.shape[0]
    peaks = scores.amax(0) if frames > 1 else scores[0]
    if near is not None:
        peaks = peaks.masked_fill(~near, -torch.inf)
    count = min(k, peaks.shape[1])
    best = torch.topk(peaks, count, 1, sorted=False)
    values = scores.gather(2, best.indices.expand(frames, -1, -1))
    values = values.masked_fill(best.values == -torch.inf, -torch.inf)
    first = torch.arange(frames, device=scores.device).view(-1, 1, 1) * tokens + offset
    places = best.indices + first
    return values.transpose(0, 1).flatten(1), places.transpose(0, 1).flatten(1), peaks, count
