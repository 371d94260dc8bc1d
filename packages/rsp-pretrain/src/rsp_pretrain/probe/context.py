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
from vos_core.ops.propagation import TILE_BYTES, Window, propagate_tokens


class ContextConfig(Config):
    """Options of the propagation; published numbers depend on all of them."""

    temperature: float = Field(default=0.7, gt=0, description="Of the soft-max over cosine similarities.")
    topk: int = Field(default=7, ge=1, description="Context tokens that each token listens to.")
    radius: float = Field(
        default=20,
        ge=0,
        description="Distance in tokens below which labels of the last frames count; 0 = any. All of the first frame do.",
    )
    video_len: int = Field(default=20, ge=1, description="Last frames that labels come from, besides the first one.")


class ContextPropagation:
    """Labels of one clip, frame by frame, with memory that does not grow.

    Args:
        config: options.
        features: of the first frame, `(D, h, w)`; their length does not matter.
        labels: of the first frame, soft or one-hot, `(C, h, w)`.
        dtype: of the stored features; half precision finds candidates in it and compares those exactly.
        tile_bytes: bound of the similarities that exist at a time, in bytes; one row of tokens at least.

    Raises:
        UsageError: grids that differ.
    """

    def __init__(
        self,
        config: ContextConfig,
        features: Tensor,
        labels: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        tile_bytes: int = TILE_BYTES,
    ) -> None:
        if features.shape[1:] != labels.shape[1:]:
            raise UsageError(f"features of {tuple(features.shape)} with labels of {tuple(labels.shape)}", expected="one grid")
        self.config, self.grid = config, (features.shape[1], features.shape[2])
        self._tile_bytes = tile_bytes
        # Slot 0 is the first frame, for ever; the others are a ring of the last frames, copies of the first one to begin with.
        slots = config.video_len + 1
        self.keys = _unit_rows(features).to(dtype).repeat(slots, 1, 1)
        self.labels = _rows(labels).repeat(slots, 1, 1)
        self._oldest = 1

    def step(self, features: Tensor) -> Tensor:
        """Return the soft labels of the next frame, float32 `(C, h, w)`, and remember them.

        Args:
            features: `(D, h, w)`.

        Raises:
            UsageError: another grid than that of the first frame.
        """
        query = _unit_rows(features)
        if query.shape != self.keys.shape[1:]:
            raise UsageError(f"features of {tuple(features.shape)}", expected=f"the grid of the first frame, {self.grid}")
        found = propagate_tokens(
            query,
            self.keys,
            self.labels,
            grid=self.grid,
            k=self.config.topk,
            temperature=self.config.temperature,
            window=Window(self.config.radius, "disc") if self.config.radius else None,
            free_frames=1,
            ties="drop",
            tile_bytes=self._tile_bytes,
        )
        self.keys[self._oldest], self.labels[self._oldest] = query, found
        self._oldest = self._oldest % self.config.video_len + 1
        return found.t().reshape(-1, *self.grid)

    def state_bytes(self) -> int:
        """Return the bytes of the memory."""
        return sum(x.numel() * x.element_size() for x in (self.keys, self.labels))


def _rows(x: Tensor) -> Tensor:
    return x.float().flatten(1).t().contiguous()


def _unit_rows(features: Tensor) -> Tensor:
    return F.normalize(_rows(features), dim=1)
