"""STCN behind the project's contract: frames in, label maps with original ids out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stcn_ttt.config import SegmenterConfig
from stcn_ttt.model import STCN
from stcn_ttt.model.fuse import fuse
from stcn_ttt.prepare import View
from stcn_ttt.tracker import ClipTracker, TrackerOptions
from vos_core.checks import check_frame_size, followed, given_masks, label_dtype
from vos_core.contract import Precision
from vos_core.errors import FrameError, UsageError
from vos_core.run.device import torch_device, torch_dtype
from vos_core.types import Frame, FrameResult, Prompt

KERNEL_FROM = 600
"""Shorter side from which the authors' multi-scale runs read with a kernel."""


class STCNSegmenter:
    """Follows objects through one clip; any of `prompts`' objects may enter or be refreshed at any frame.

    Args:
        network: weights; stays as it is, a fused copy computes.
        config: see `SegmenterConfig`.
        device: torch device string.
        precision: fp32 is the parity path.
        probabilities: fill `FrameResult.probs`.
    """

    def __init__(
        self,
        network: STCN,
        config: SegmenterConfig | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
    ) -> None:
        self._dtype = torch_dtype(precision, device)
        self.config = config or SegmenterConfig()
        self._views: list[View] = []
        self.device, self.precision, self.probabilities = device, precision, probabilities
        self.load(network)

    def load(self, network: STCN) -> None:
        """Take over other weights and forget the clip."""
        fused = fuse(network, device=torch_device(self.device), dtype=self._dtype)
        config = self.config
        self._looks = [
            (side, ClipTracker(fused, self._options(side), dtype=self._dtype)) for side in (config.scales or (config.res,))
        ]
        self.reset()

    def _options(self, side: int) -> TrackerOptions:
        config = self.config
        kernel = bool(config.scales) and side >= KERNEL_FROM if config.kernel is None else config.kernel
        return TrackerOptions(
            top=config.top,
            mem_every=config.mem_every,
            include_last=config.include_last,
            max_frames=None if config.memory == "unbounded" else config.memory_frames,
            restricted=config.memory == "restricted",
            kernel=kernel,
        )

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects followed, in slot order."""
        return self._looks[0][1].ids

    @property
    def memory_frames(self) -> int:
        """Permanent memory frames of the current clip."""
        return self._looks[0][1].memory.frames

    @property
    def network_probs(self) -> Tensor:
        """Probabilities of the last frame as the network has them, `(N + 1, H', W')`, resized and padded; of the first view."""
        probs = self._looks[0][1].probs
        if probs is None:
            raise UsageError("there are no probabilities before the first frame")
        return probs

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size.

        Raises:
            UsageError: no prompt has been given yet, or one without a mask.
            MaskError: a mask of another size than the frame.
            FrameError: a frame of another size than the first one, or without a number in its name where names are the clock.
        """
        height, width = frame.rgb.shape[:2]
        if not self._views:
            if not prompts:
                raise UsageError(f"frame {frame.name} comes before any mask", fix="Give a mask with the first frame")
        else:
            check_frame_size(frame, self._views[0].frame_size)
        given = given_masks(frame, prompts, taker="STCN")
        if not self._views:
            self._views = [
                View(height, width, short_side=side, antialias=self.config.antialias, device=torch_device(self.device))
                for side, _ in self._looks
            ]
        time = _number(frame) if self.config.clock == "names" else None
        total: Tensor | None = None
        for view, (_, tracker) in zip(self._views, self._looks, strict=True):
            masks = {object_id: view.mask(mask) for object_id, mask in given.items()}
            probs = view.restore(tracker.step(view.image(frame.rgb), masks, time=time))
            total = probs if total is None else total + probs
        assert total is not None
        mean = total / len(self._views) if len(self._views) > 1 else total
        return FrameResult(
            labels=_label_map(mean, self.ids),
            ids=self.ids,
            probs=np.ascontiguousarray(mean.cpu().numpy()) if self.probabilities else None,
        )

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects.

        Raises:
            UsageError: an id that is not followed; then nothing is forgotten.
        """
        if wanted := followed(ids, self.ids):
            for _, tracker in self._looks:
                tracker.remove(wanted)

    def reset(self) -> None:
        """Forget the clip; keep weights."""
        self._views = []
        for _, tracker in self._looks:
            tracker.reset()

    def state_bytes(self) -> int:
        """Return the bytes held for the current clip."""
        return sum(tracker.state_bytes() for _, tracker in self._looks)


def _number(frame: Frame) -> int:
    digits = re.search(r"\d+$", frame.name)
    if digits is None:
        raise FrameError(f"frame name '{frame.name}' ends in no number", fix="Use clock=frames, or number the frames")
    return int(digits[0])


def _label_map(probs: Tensor, ids: Sequence[int]) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Return the likeliest object per pixel, uint8 or, if an id needs it, uint16."""
    # One pass per object instead of argmax over the outer dimension, which torch does not vectorise; the first of equals wins
    # as there.
    best = probs[0].clone()
    winner = torch.zeros(best.shape, dtype=torch.int32, device=best.device)
    for place in range(1, probs.shape[0]):
        winner.masked_fill_(probs[place] > best, place)
        torch.maximum(best, probs[place], out=best)
    table = np.asarray((0, *ids), dtype=label_dtype(ids))
    return table[winner.cpu().numpy()]
