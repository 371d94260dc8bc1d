"""Flip and multi-scale averaging around any segmenter: one member per view, probabilities averaged at the input's size."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vos_core.contract import AdaptiveSegmenter, FrameReader, LengthAware, Segmenter
from vos_core.errors import UsageError, VosError
from vos_core.run.objects import labels_of
from vos_core.types import BinaryMask, Frame, FrameResult, Prompt


@dataclass(frozen=True, slots=True)
class View:
    """One way to look at a frame: scaled by `scale`, then mirrored left-right if `flipped`."""

    scale: float = 1.0
    flipped: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the view, at least one pixel."""
        return max(1, round(height * self.scale)), max(1, round(width * self.scale))

    def frame(self, frame: Frame) -> Frame:
        """Return `frame` as this view shows it."""
        height, width = self.size(*frame.rgb.shape[:2])
        rgb: npt.NDArray[Any] = frame.rgb
        if rgb.shape[:2] != (height, width):
            rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA if self.scale < 1 else cv2.INTER_CUBIC)
        if self.flipped:
            rgb = np.ascontiguousarray(rgb[:, ::-1])
        return replace(frame, rgb=rgb)

    def prompt(self, prompt: Prompt, width: int) -> Prompt:
        """Return `prompt`, given on a frame of `width` pixels, in the coordinates of this view."""
        mask = None if prompt.mask is None else self._mask(prompt.mask)
        points, box = prompt.points, prompt.box
        if points is not None:
            points = points * np.float32(self.scale)
            if self.flipped:
                points = np.stack([width * self.scale - 1 - points[:, 0], points[:, 1]], 1).astype(np.float32)
        if box is not None:
            x0, y0, x1, y1 = (value * self.scale for value in box)
            box = (width * self.scale - x1, y0, width * self.scale - x0, y1) if self.flipped else (x0, y0, x1, y1)
        return replace(prompt, mask=mask, points=points, box=box)

    def _mask(self, mask: BinaryMask) -> BinaryMask:
        height, width = self.size(*mask.shape)
        seen = mask
        if mask.shape != (height, width):
            seen = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST) > 0
            if mask.any() and not seen.any():  # too small for the scale: keep its middle, so that the object is not lost
                rows, columns = np.nonzero(mask)
                row, column = np.median(rows) * height / mask.shape[0], np.median(columns) * width / mask.shape[1]
                seen[min(int(row), height - 1), min(int(column), width - 1)] = True
        return np.ascontiguousarray(seen[:, ::-1]) if self.flipped else seen

    def undo(self, probs: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return `(N + 1, H, W)` probabilities of this view at the input's `size` (height, width)."""
        if self.flipped:
            probs = probs[:, :, ::-1]
        if probs.shape[1:] == size:
            return probs
        height, width = size
        return np.stack(
            [cv2.resize(np.ascontiguousarray(plane), (width, height), interpolation=cv2.INTER_LINEAR) for plane in probs]
        )


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Which views to average: every scale, and its mirror image if `flip`.

    >>> len(Augmentation(flip=True, scales=(1.0, 1.3)).views)
    4
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.scales or any(not 0.1 <= scale <= 4 for scale in self.scales):
            raise UsageError(f"scales {list(self.scales)}", expected="one or more factors from 0.1 to 4")
        if len(set(self.scales)) < len(self.scales):
            raise UsageError(f"scales {list(self.scales)} name one factor twice", fix="Give each scale once")

    @property
    def views(self) -> tuple[View, ...]:
        """The views, unmirrored first."""
        flips = (False, True) if self.flip else (False,)
        return tuple(View(scale, flipped) for flipped in flips for scale in self.scales)


class AugmentedSegmenter:
    """Averages the probabilities of one segmenter per view; takes as many times the time and memory as there are views.

    Args:
        make: returns a further segmenter that gives probabilities; they may share weights.
        augmentation: the views.
    """

    def __init__(self, make: Callable[[], Segmenter], augmentation: Augmentation) -> None:
        self._members = [(view, make()) for view in augmentation.views]

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the average over all views for `frame`."""
        height, width = frame.rgb.shape[:2]
        total: npt.NDArray[np.float32] | None = None
        ids: tuple[int, ...] = ()
        for view, member in self._members:
            result = member.step(view.frame(frame), [view.prompt(prompt, width) for prompt in prompts])
            if result.probs is None:
                raise VosError(f"the method gave no probabilities for frame {frame.name}, so views cannot be averaged")
            probs = view.undo(result.probs, (height, width))
            if total is None:
                total, ids = probs.astype(np.float32), result.ids
            else:
                total += probs[[0, *(1 + result.ids.index(object_id) for object_id in ids)]]
        assert total is not None
        total /= len(self._members)
        return FrameResult(labels=labels_of(total, ids), ids=ids, probs=total)

    def expect(self, frames: int) -> None:
        """Tell every view that asks how many frames the clip has."""
        for _, member in self._members:
            if isinstance(member, LengthAware):
                member.expect(frames)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects in every view."""
        gone = list(ids)
        for _, member in self._members:
            member.remove(gone)

    def reset(self) -> None:
        """Forget the clip in every view."""
        for _, member in self._members:
            member.reset()

    def state_bytes(self) -> int:
        """Return the bytes that all views hold for the clip."""
        return sum(member.state_bytes() for _, member in self._members)


class AdaptiveAugmentedSegmenter(AugmentedSegmenter):
    """Views of segmenters that adapt to the clip first, each to its own view of it."""

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Adapt every member to its view of all frames."""
        width = frames.read(min(prompts)).rgb.shape[1]
        for view, member in self._members:
            assert isinstance(member, AdaptiveSegmenter)
            shown = {index: [view.prompt(prompt, width) for prompt in given] for index, given in prompts.items()}
            member.adapt(_ViewedFrames(frames, view), shown)


def augment(make: Callable[[], Segmenter], augmentation: Augmentation, *, adaptive: bool = False) -> AugmentedSegmenter:
    """Return an `AugmentedSegmenter` over `make`, one that adapts if its members do."""
    return (AdaptiveAugmentedSegmenter if adaptive else AugmentedSegmenter)(make, augmentation)


class _ViewedFrames:
    """Frames of a clip as one view shows them."""

    def __init__(self, frames: FrameReader, view: View) -> None:
        self._frames, self._view = frames, view

    @property
    def names(self) -> Sequence[str]:
        return self._frames.names

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, index: int) -> Frame:
        return self._view.frame(self._frames.read(index))
