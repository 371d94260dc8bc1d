"""RCMS: reliable conditioned memory selection. Once an object disappears, its last good frames are remembered for good.

Stands alone: any tracker with a memory of prompted (conditioning) and tracked frames can use it in two lines,

    for frame in video:
        score, ious, logits = tracker.track(frame)          # your model
        for index in rcms.observe(frame.index, score, ious, logits):
            tracker.keep_for_good(index)                    # your memory

Spec section 3.5; the idea is of the MOSEv2 baseline (arXiv 2508.05630).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from vos_core.errors import UsageError

DEFAULT_PROMOTE, DEFAULT_THRESHOLD = 4, 0.6


def mask_quality(score: Tensor, ious: Tensor, logits: Tensor) -> Tensor:
    """Return qualities `(B,)` of B masks, 0-1: presence times predicted IoU times mean certainty inside the mask.

    NaN for an empty mask, which then passes no threshold (also not one of minus infinity).

    >>> mask_quality(torch.tensor([0.0]), torch.tensor([[0.5, 1.0]]), torch.zeros(1, 1, 2, 2)).isnan().item()
    True

    Args:
        score: logits that the object is there, B elements.
        ious: predicted IoUs `(B, M)`, 0-1.
        logits: mask logits `(B, ...)`; above 0 = object.
    """
    batch = ious.shape[0]
    flat = logits.reshape(batch, -1).float()
    inside = flat > 0
    certainty = torch.where(inside, torch.sigmoid(flat), 0.0).sum(1) / inside.sum(1)
    return torch.sigmoid(score.reshape(batch).float()) * ious.float().amax(1) * certainty


class RCMS:
    """Watches one object; says once, at its first disappearance, which frames to keep for good.

    Args:
        promote: frames to keep at most; 0 keeps none.
        threshold: least quality of a frame that is kept (mask quality filter, MQF).
        bounded: remember only what forward tracking can need (the newest `promote` good frames), not every frame.

    >>> rcms = RCMS(promote=1, threshold=0.5)
    >>> good, gone, ious, logits = torch.tensor(5.0), torch.tensor(-5.0), torch.ones(1), torch.full((2, 2), 9.0)
    >>> rcms.observe(1, good, ious, logits), rcms.observe(2, gone, ious, logits), rcms.observe(3, gone, ious, logits)
    ([], [1], [])
    """

    def __init__(self, *, promote: int = DEFAULT_PROMOTE, threshold: float = DEFAULT_THRESHOLD, bounded: bool = False) -> None:
        self.promote, self.threshold, self.bounded = int(promote), threshold, bounded
        self.reset()

    def reset(self) -> None:
        """Forget the object."""
        self.disappeared_at: int | None = None
        self._quality: dict[int, float] = {}

    def observe(self, frame: int, score: Tensor | float, ious: Tensor, logits: Tensor, *, reverse: bool = False) -> list[int]:
        """Return the frames to keep for good, newest first; empty except at the first disappearance.

        Call it for every tracked frame, in tracking order, after the frame went into memory; not for prompted frames.

        Args:
            frame: its index.
            score: logit that the object is there; at or below 0 it has disappeared.
            ious: predicted IoUs `(M,)`, 0-1.
            logits: the mask's logits, any shape.
            reverse: look for good frames after this one instead of before it.

        Raises:
            UsageError: score or IoUs are those of several objects.
        """
        tensor, best = torch.as_tensor(score, dtype=torch.float32), torch.as_tensor(ious)
        if tensor.numel() != 1 or best.numel() != (best.shape[-1] if best.ndim else 1):
            raise UsageError(
                f"a score of shape {tuple(tensor.shape)} with IoUs {tuple(best.shape)}",
                expected="those of one object",
                fix="Keep an RCMS for each object and hand it that object's part",
            )
        quality = mask_quality(tensor, best.reshape(1, -1), torch.as_tensor(logits).unsqueeze(0))
        return self.note(frame, score=float(tensor), quality=float(quality), reverse=reverse)

    def note(self, frame: int, *, score: float, quality: float, reverse: bool = False) -> list[int]:
        """Return what `observe` returns, for a caller that has computed score and quality (of many objects at once)."""
        self._quality[frame] = quality
        if self.disappeared_at is None and score <= 0:
            self.disappeared_at = frame
            kept = self._newest(frame, reverse=reverse)
            for index in kept:
                del self._quality[index]
            if self.bounded:
                self._quality.clear()
            return kept
        if self.bounded:
            keep = [] if self.disappeared_at is not None else self._newest(frame + 1, reverse=reverse)
            self._quality = {index: self._quality[index] for index in keep}
        return []

    def _newest(self, frame: int, *, reverse: bool) -> list[int]:
        """Return good frames, nearest first. The very first frame never counts: the original's walk stops before it."""
        near = (
            sorted(index for index in self._quality if index > frame)
            if reverse
            else sorted((index for index in self._quality if 0 < index < frame), reverse=True)
        )
        good = [index for index in near if not math.isnan(self._quality[index]) and self._quality[index] > self.threshold]
        return good[: self.promote]

    def forget(self, frames: Iterable[int]) -> None:
        """Take frames out of the candidates: they were prompted since, or left memory."""
        for frame in frames:
            self._quality.pop(frame, None)

    def restore(self, frame: int, quality: float) -> None:
        """Make a frame a candidate again: its prompt was taken back and it counts as tracked."""
        self._quality[frame] = quality

    @property
    def candidates(self) -> tuple[int, ...]:
        """Frames that would be kept if the object disappeared now, newest first; none once it has."""
        if self.disappeared_at is not None:
            return ()
        return tuple(self._newest(max(self._quality, default=0) + 1, reverse=False))
