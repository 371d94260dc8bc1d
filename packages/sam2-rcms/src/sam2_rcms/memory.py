"""What is remembered of one object, and what of it a frame reads: SAM 2's memory rules without any tensor arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from sam2_rcms.model.network import SPATIAL_MEMORIES
from sam2_rcms.rcms import RCMS


@dataclass(slots=True)
class Record:
    """One object on one frame.

    Args:
        low: mask logits `(1, S / 4, S / 4)`, holes filled; None once only the pointer is of use.
        pointer: `(256,)`.
        score: logit that the object is there.
        ious: predicted IoUs `(M,)`.
        quality: see `sam2_rcms.rcms.mask_quality`.
        memory: spatial memory `(64, S / 16, S / 16)`; None while it is not encoded yet, or of no more use.
        keys: attention keys of the memory `(4, L, 256)`, see `cache_memory_keys`; None while nothing has asked for them.
    """

    low: Tensor | None
    pointer: Tensor
    score: float
    ious: Tensor
    quality: float
    memory: Tensor | None = None
    keys: Tensor | None = None

    def offload(self) -> None:
        """Move what is big to the CPU; the pointer, of a kilobyte, stays where it is."""
        self.low, self.memory, self.keys = (None if one is None else one.cpu() for one in (self.low, self.memory, self.keys))

    def nbytes(self) -> int:
        """Return the bytes of its tensors."""
        tensors = (self.low, self.pointer, self.ious, self.memory, self.keys)
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)


@dataclass(slots=True)
class Clicks:
    """Clicks of one object on one frame: `(P, 2)` in pixels of the network's image, and labels `(P,)`."""

    points: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]


@dataclass(slots=True)
class ObjectMemory:
    """Everything about one object in one video.

    Args:
        rcms: watches for its disappearance.
        cond: conditioning frames: prompts, then what RCMS promoted, in the order in which they came.
        tracked: all other frames.
        new_cond: prompted since the last propagation began.
        new_tracked: corrections of tracked frames since then.
        clicks: by frame.
        masks: frames with a given mask.
        visited: frame -> whether it was last tracked backwards.
    """

    rcms: RCMS
    cond: dict[int, Record] = field(default_factory=dict)
    tracked: dict[int, Record] = field(default_factory=dict)
    new_cond: dict[int, Record] = field(default_factory=dict)
    new_tracked: dict[int, Record] = field(default_factory=dict)
    clicks: dict[int, Clicks] = field(default_factory=dict)
    masks: set[int] = field(default_factory=set)
    visited: dict[int, bool] = field(default_factory=dict)

    def latest(self, frame: int, *, cond: bool) -> Record | None:
        """Return the record that counts on `frame`: of the new ones only those of the asked kind are looked at."""
        new = self.new_cond if cond else self.new_tracked
        return new.get(frame) or self.cond.get(frame) or self.tracked.get(frame)

    def promote(self, frames: list[int]) -> None:
        """Make tracked frames conditioning frames; they leave a hole among the tracked ones."""
        for frame in frames:
            self.cond[frame] = self.tracked.pop(frame)

    def shrink(self, frame: int, rules: ReadRules) -> None:
        """Drop what is read neither by forward tracking after `frame` nor by a correction of `frame`, just tracked."""
        candidates = set(self.rcms.candidates)
        for old in [index for index in self.tracked if index < frame]:
            if old in candidates:
                continue
            age = frame - old
            record = self.tracked[old]
            if age > rules.spatial_reach:
                record.memory = record.low = record.keys = None
            if age > max(rules.spatial_reach, rules.pointers - 1):
                del self.tracked[old]
        for index, kept in self.cond.items():
            if index < frame:
                kept.low = None  # frames that have passed are not shown again
        for passed in (self.visited, self.clicks):
            for index in [index for index in passed if index < frame]:
                del passed[index]
        self.masks = {index for index in self.masks if index >= frame}

    def nbytes(self) -> int:
        """Return the bytes of all records."""
        return sum(
            record.nbytes() for store in (self.cond, self.tracked, self.new_cond, self.new_tracked) for record in store.values()
        )


@dataclass(frozen=True, slots=True)
class ReadRules:
    """Which memories a frame reads; names and meaning as in `PredictorConfig`.

    Args:
        spatial: number of spatial memories, conditioning ones counted as one.
        stride: frames between two of them.
        max_cond: conditioning frames read; -1 = all.
        pointers: object pointers read.
        frames: length of the video.
    """

    spatial: int = 7
    stride: int = 1
    max_cond: int = -1
    pointers: int = 16
    frames: int = 2**62

    @property
    def spatial_reach(self) -> int:
        """Greatest age of a tracked frame whose spatial memory is read."""
        return (self.spatial - 1) * self.stride


class Reading(NamedTuple):
    """What a frame reads.

    Args:
        spatial: (temporal code, frame, record) of each spatial memory.
        pointers: (frames away, frame, record) of each object pointer.
        span: what distances of pointers are divided by.
    """

    spatial: list[tuple[int, int, Record]]
    pointers: list[tuple[int, int, Record]]
    span: int


def plan_reading(
    frame: int,
    cond: Mapping[int, Record],
    tracked: Mapping[int, Record],
    rules: ReadRules,
    *,
    reverse: bool = False,
    past_only: bool = True,
) -> Reading:
    """Return what `frame` reads (spec section 2.7, steps 1 to 4).

    Args:
        frame: its index.
        cond: conditioning frames.
        tracked: the others.
        rules: see `ReadRules`.
        reverse: tracking runs backwards.
        past_only: leave out pointers of conditioning frames that tracking has not reached (training keeps them).
    """
    chosen = _closest(frame, cond, rules.max_cond)
    others = {index: record for index, record in cond.items() if index not in chosen}

    def known(index: int) -> Record | None:
        return tracked.get(index) or others.get(index)

    # The last code means "prompted", however few memories are read: it is what the weights have learned.
    spatial = [(SPATIAL_MEMORIES - 1, index, record) for index, record in chosen.items()]
    step = rules.stride
    for back in range(rules.spatial - 1, 0, -1):
        if back == 1:
            index = frame + 1 if reverse else frame - 1
        elif reverse:
            index = -(-(frame + 2) // step) * step + (back - 2) * step
        else:
            index = (frame - 2) // step * step - (back - 2) * step
        record = known(index)
        if record is not None:
            spatial.append((back - 1, index, record))
    count = min(rules.frames, rules.pointers)
    sign = -1 if reverse else 1
    pointers = [
        (sign * (frame - index), index, record)
        for index, record in chosen.items()
        if not past_only or sign * (frame - index) >= 0
    ]
    for distance in range(1, count):
        index = frame - sign * distance
        if index < 0 or index >= rules.frames:
            break
        record = known(index)
        if record is not None:
            pointers.append((distance, index, record))
    return Reading(spatial, pointers, max(count - 1, 1))


def _closest(frame: int, cond: Mapping[int, Record], limit: int) -> dict[int, Record]:
    """Return up to `limit` conditioning frames: the nearest before, the nearest at or after, then the nearest of any."""
    if limit == -1 or len(cond) <= limit:
        return dict(cond)
    before = max((index for index in cond if index < frame), default=None)
    after = min((index for index in cond if index >= frame), default=None)
    chosen = [index for index in (before, after) if index is not None]
    rest = sorted((index for index in cond if index not in chosen), key=lambda index: abs(index - frame))
    return {index: cond[index] for index in (*chosen, *rest)[:limit]}
