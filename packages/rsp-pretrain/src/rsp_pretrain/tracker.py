"""Soft labels through one clip at the token grid: encode a frame, listen to the context, remember."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from rsp_pretrain.config import PropagationConfig
from rsp_pretrain.memory import Context
from rsp_pretrain.model import Encoder
from vos_core.ops.propagation import Window, propagate_tokens


class ClipTracker:
    """Propagates the labels of one clip.

    Args:
        encoder: frozen, in evaluation mode.
        config: how labels are propagated.
        dtype: what the encoder computes in and what the context is kept in; similarities that decide are float32.
    """

    def __init__(self, encoder: Encoder, config: PropagationConfig, *, dtype: torch.dtype = torch.float32) -> None:
        self.encoder, self.config, self.dtype = encoder, config, dtype
        self.context = Context(recent=config.n_last_frames, pinned=config.prompt_frames)
        reach = config.size_mask_neighborhood
        self.window = Window(reach) if reach else None
        self.reset()

    def reset(self) -> None:
        """Forget the clip."""
        self.context.clear()
        self.soft: Tensor | None = None
        self.features: Tensor | None = None

    @torch.inference_mode()
    def step(self, image: Tensor, given: Mapping[int, Tensor] | None = None, *, channels: int) -> Tensor:
        """Return the soft labels of a frame, float32 `(C, h, w)`, background first.

        Args:
            image: normalised, `(1, 3, H, W)`.
            given: masks of this frame at the token grid, channel -> bool `(h * w,)`; their tokens are theirs alone.
            channels: C, with the background; more than before when objects enter.
        """
        self.soft = self.features = None  # their memory is free for this frame's before the heap grows
        self.features = self.encode(image)[0]
        grid = (image.shape[2] // self.encoder.patch, image.shape[3] // self.encoder.patch)
        query = F.normalize(self.features.float(), dim=1)
        if self.context.frames:
            self.context.add_channels(channels - self.context.labels.shape[2])
            labels = propagate_tokens(
                query,
                self.context.keys,
                self.context.labels,
                grid=grid,
                k=self.config.topk,
                temperature=self.config.temperature,
                window=self.window,
                candidates=self.config.candidates,
            )
        else:
            labels = query.new_zeros((len(query), channels))
            labels[:, 0] = 1
        if given:
            labels = _take(labels, given)
        self.context.add(query.to(self.dtype), labels, given=bool(given))
        self.soft = labels.t().reshape(channels, *grid)
        return self.soft

    def encode(self, image: Tensor) -> Tensor:
        """Return the output tokens of the patches, `(B, h * w, D)`."""
        with torch.autocast(image.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32):
            return self.encoder.encode(image)[:, 1:]

    def keep_channels(self, places: list[int]) -> None:
        """Stop following all channels but these."""
        self.context.keep_channels(places)
        if self.soft is not None:
            self.soft = self.soft[places]

    def state_bytes(self) -> int:
        """Return the bytes held for the clip."""
        parts = [part for part in (self.soft, self.features) if part is not None]
        return self.context.state_bytes() + sum(part.numel() * part.element_size() for part in parts)


def _take(labels: Tensor, given: Mapping[int, Tensor]) -> Tensor:
    """Return labels after given masks: their tokens are theirs alone, and they have no others."""
    labels = labels.clone()
    for channel in given:
        labels[:, 0] += labels[:, channel]
        labels[:, channel] = 0
    for channel, tokens in given.items():
        labels[tokens] = 0
        labels[tokens, channel] = 1
    return labels
