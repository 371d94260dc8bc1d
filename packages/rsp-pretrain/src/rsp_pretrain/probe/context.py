"""Label propagation as videowalk and its ViT ports do it: first frame plus the last frames, soft-max over the best tokens.

It differs from DAVIS propagation (spec 3.4): a round window that the first frame escapes, soft-max over exactly k tokens, and a
context that is filled up with copies of the first frame.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from vos_core.config import Config
from vos_core.errors import UsageError
from vos_core.ops.affinity import TILE_BYTES
from vos_core.ops.backend import full_precision


class ContextConfig(Config):
    """Options of the propagation; published numbers depend on all of them."""

    temperature: float = Field(default=0.7, gt=0, description="Of the soft-max over cosine similarities.")
    topk: int = Field(default=7, ge=1, description="Context tokens that each token listens to.")
    radius: float = Field(
        default=20,
        ge=0,
        description="Distance in tokens below which labels of the last frames count; 0 = any. The first frame's all do.",
    )
    video_len: int = Field(default=20, ge=1, description="Last frames that labels come from, besides the first one.")


class ContextPropagation:
    """Labels of one clip, frame by frame, with memory that does not grow.

    Args:
        config: options.
        features: of the first frame, `(D, h, w)`; their length does not matter.
        labels: of the first frame, soft or one-hot, `(C, h, w)`.
        tile_bytes: bound of the similarities that exist at a time, in bytes; one token at least.

    Raises:
        UsageError: grids that differ.
    """

    def __init__(self, config: ContextConfig, features: Tensor, labels: Tensor, *, tile_bytes: int = TILE_BYTES) -> None:
        if features.shape[1:] != labels.shape[1:]:
            raise UsageError(f"features of {tuple(features.shape)} with labels of {tuple(labels.shape)}", expected="one grid")
        self.config, self.grid = config, (features.shape[1], features.shape[2])
        self._tile_bytes = tile_bytes
        tokens = self.grid[0] * self.grid[1]
        # Slot 0 is the first frame, for ever; the others are a ring of the last frames.
        slots = config.video_len + 1
        self._keys = features.new_zeros(slots, tokens, features.shape[0], dtype=torch.float32)
        self._values = labels.new_zeros(slots, tokens, labels.shape[0], dtype=torch.float32)
        self._seen = 0
        self._store(0, _unit_rows(features), _rows(labels))
        self._store(1, self._keys[0], self._values[0])
        self._seen = 1
        self.top_weights: Tensor | None = None
        """Weights of the last step's best tokens, `(L, k)`, largest first."""

    def step(self, features: Tensor) -> Tensor:
        """Return the soft labels of the next frame, float32 `(C, h, w)`, and remember them.

        Args:
            features: `(D, h, w)`.
        """
        keys = _unit_rows(features)
        if keys.shape != self._keys.shape[1:]:
            raise UsageError(f"features of {tuple(features.shape)}", expected=f"the grid of the first frame, {self.grid}")
        found, weights = [], []
        tokens, filled = len(keys), min(self._seen, self.config.video_len)
        # Copies of the first frame stand in for frames before it. More than k of them cannot be chosen.
        copies = min(self.config.video_len - filled, self.config.topk)
        context = (1 + filled) * tokens
        known = self._keys[: 1 + filled].flatten(0, 1)
        values = self._values[: 1 + filled].flatten(0, 1)
        step = max(1, self._tile_bytes // (4 * (context + copies * tokens)))
        k = min(self.config.topk, context + copies * tokens)
        with full_precision(keys):
            for first in range(0, tokens, step):
                rows = keys[first : first + step]
                scores = (rows @ known.t()) / self.config.temperature
                near = self._near(first, len(rows), keys.device)
                if near is not None:
                    scores[:, tokens:].view(len(rows), filled, tokens).masked_fill_(~near[:, None], -torch.inf)
                if copies:
                    copied = scores[:, tokens : 2 * tokens]  # here slot 1 still is the first frame
                    scores = torch.cat((scores, *([copied] * copies)), 1)
                best, places = torch.topk(scores, k, 1)
                share = torch.softmax(best, 1)
                places = torch.where(places < context, places, tokens + (places - context) % tokens)
                found.append(F.embedding_bag(places, values, per_sample_weights=share, mode="sum"))
                weights.append(share)
        self.top_weights = torch.cat(weights)
        labels = torch.cat(found)
        self._store(1 + self._seen % self.config.video_len, keys, labels)
        self._seen += 1
        return labels.t().unflatten(1, self.grid)

    def state_bytes(self) -> int:
        """Return the bytes of the memory."""
        return sum(x.numel() * x.element_size() for x in (self._keys, self._values))

    def _store(self, slot: int, keys: Tensor, values: Tensor) -> None:
        self._keys[slot], self._values[slot] = keys, values

    def _near(self, first: int, count: int, device: torch.device) -> Tensor | None:
        """Return which tokens lie in the window of `count` tokens from `first` on, `(count, L)`; None without a window."""
        if not self.config.radius:
            return None
        token = torch.arange(self.grid[0] * self.grid[1], device=device)
        row, column = token // self.grid[1], token % self.grid[1]
        own = slice(first, first + count)
        apart = (row[own, None] - row[None]).square() + (column[own, None] - column[None]).square()
        return apart < self.config.radius**2


def _rows(x: Tensor) -> Tensor:
    return x.float().flatten(1).t()


def _unit_rows(features: Tensor) -> Tensor:
    return F.normalize(_rows(features), dim=1)
