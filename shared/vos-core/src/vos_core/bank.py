"""A restricted memory bank: which of the frames put into a bounded memory stay, by relevance and freshness (RMem).

The policy alone: it knows frames by number and how much each was attended to, and says whose place is to be freed. Features
stay with the memory that asks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

DropRule = Literal["relevance", "oldest"]
"""`relevance`: the least of relevance plus a bonus for freshness; `oldest`: the oldest frame but the first."""

MOMENTUM = 0.8
"""Weight of a new relevance in the running mean."""
EXPLORATION = 1.5
"""Weight of the freshness bonus; 0 = relevance alone."""
COUNT_OFFSET = 8
"""Added to a frame's count under the bonus's root, which flattens it."""


@dataclass(frozen=True, slots=True)
class BankUpdate:
    """What happened when a frame was put in.

    Args:
        frame: the new frame.
        shares: relevance of each frame held before, summing to 1; empty when it was not looked at.
        scores: mean relevance plus bonus of each frame held before; the least one loses its place. Empty likewise.
        place: position to free in the order before, with the new frame last; None = none.
        dropped: the frame that was there.
    """

    frame: int
    shares: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    place: int | None = None
    dropped: int | None = None


@dataclass(slots=True)
class RestrictedBank:
    """Frames of a bounded memory in the order they came; the first one, the reference, never leaves.

    Source: RMem, spec section 3.4: `drop argmin w + 1.5 sqrt(ln(sum c) / (c + 8))` over the old frames but the first, where w
    is the running mean of a frame's share of attention and c the number of updates it has seen.

    Args:
        former: frames kept at the front, as the original counts them; what matters is the sum with `latter`.
        latter: further frames kept; None = without bound.
        rule: which frame leaves a full bank.
        lazy: begin the statistics when the bank is full for the first time (RMem's VOST code with AOT).

    >>> bank = RestrictedBank(former=1, latter=2)
    >>> for frame, relevance in enumerate(([], [1.0], [0.4, 0.6])):
    ...     _ = bank.add(frame, relevance)
    >>> bank.add(3, [0.5, 0.1, 0.4]).dropped, bank.frames
    (1, (0, 2, 3))
    """

    former: int = 1
    latter: int | None = 7
    rule: DropRule = "relevance"
    lazy: bool = False
    _frames: list[int] = field(default_factory=list)
    _relevance: dict[int, float] = field(default_factory=dict)
    _counts: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.former < 1 or (self.latter is not None and self.latter < 1):
            raise ValueError(f"a bank of {self.former} + {self.latter} frames cannot hold the first and the newest")

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers of the frames held, in the order they came."""
        return tuple(self._frames)

    @property
    def capacity(self) -> int | None:
        """Most frames held after an update; a memory needs room for one more during it."""
        return None if self.latter is None else self.former + self.latter

    @property
    def wants_relevance(self) -> bool:
        """Whether the next `add` looks at relevance; a memory can save itself its computation otherwise."""
        if self.rule == "oldest" or self.capacity is None or not self._frames:
            return False
        return not self.lazy or self._overflows

    @property
    def _overflows(self) -> bool:
        return self.capacity is not None and len(self._frames) >= self.capacity

    def clear(self) -> None:
        """Forget frames and statistics."""
        self._frames.clear()
        self._relevance.clear()
        self._counts.clear()

    def add(self, frame: int, relevance: Sequence[float] = (), *, pinned: Sequence[int] = ()) -> BankUpdate:
        """Put a frame in and say which position, if any, loses its place.

        Args:
            frame: number of the frame, one that never was in the bank.
            relevance: attention that each frame held before got from this frame, of any common scale; looked at only if
                `wants_relevance`.
            pinned: further frames that may not leave, as long as others can.

        Raises:
            ValueError: relevance that is wanted but not one finite number per frame held, or a frame that is held already.
        """
        if frame in self._frames:
            raise ValueError(f"frame {frame} is in the bank already")
        shares: tuple[float, ...] = ()
        scores: tuple[float, ...] = ()
        if self.wants_relevance:
            shares = self._normalised(relevance)
            scores = self._scores(frame, shares)
        place = self._place(scores, pinned) if self._overflows else None
        self._frames.append(frame)
        dropped = None if place is None else self._frames.pop(place)
        return BankUpdate(frame, shares, scores, place, dropped)

    def _normalised(self, relevance: Sequence[float]) -> tuple[float, ...]:
        total = math.fsum(relevance)
        if len(relevance) != len(self._frames) or not math.isfinite(total):
            raise ValueError(f"relevance {list(relevance)} is not one finite number for each of {len(self._frames)} frames")
        # Nothing attended to anything: an empty foreground tells no frame from another.
        return tuple(value / total if total > 0 else 1 / len(relevance) for value in relevance)

    def _scores(self, frame: int, shares: Sequence[float]) -> tuple[float, ...]:
        old = self._frames
        self._relevance = {
            k: (1 - MOMENTUM) * self._relevance[k] + MOMENTUM * share if k in self._relevance else share
            for k, share in zip(old, shares, strict=True)
        }
        self._counts = {k: self._counts.get(k, 0) + 1 for k in (*old, frame)}
        # The reference frame's count is the number of frames held, whatever it has seen: published decisions depend on it.
        counts = [len(old), *(self._counts[k] for k in old[1:])]
        spread = math.log(sum(counts))
        return tuple(
            self._relevance[k] + EXPLORATION * math.sqrt(spread / (count + COUNT_OFFSET))
            for k, count in zip(old, counts, strict=True)
        )

    def _place(self, scores: Sequence[float], pinned: Sequence[int]) -> int:
        candidates = list(range(1, len(self._frames)))
        candidates = [place for place in candidates if self._frames[place] not in pinned] or candidates
        return min(candidates, key=lambda place: scores[place]) if scores else candidates[0]
