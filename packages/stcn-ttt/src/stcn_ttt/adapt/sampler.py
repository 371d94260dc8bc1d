"""Which frames and objects make a training sequence: jumps forward from the annotated frame, accepted by label sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

MAX_OBJECTS = 6
TRIES = 100
LENIENT_AFTER = 50
"""Failed tries after which it is enough that the first frame keeps its objects under the augmentation."""

Labels = frozenset[int]


def draw_frames(rng: np.random.RandomState, length: int, *, first: int, count: int, max_jump: int) -> list[int]:
    """Return `count` ascending frame indices that begin at `first`, one draw without the retry on equal last frames.

    Args:
        rng: NumPy's legacy generator.
        length: usable frames.
        first: index of the annotated frame; at least one frame must follow it if `count` is above 1.
        count: frames of the sequence.
        max_jump: largest step.
    """
    frames = [first]
    if count == 1:
        return frames
    jump = min(length - first - 1, max_jump)
    for _ in range(count - 2):
        frames.append(min(frames[-1] + int(rng.randint(jump)) + 1, length - jump, length - 1))
    frames.append(min(frames[-1] + int(rng.randint(jump)) + 1, length - 1))
    return frames


def draw_distinct_frames(rng: np.random.RandomState, length: int, *, first: int, count: int, max_jump: int) -> list[int]:
    """Return `draw_frames`, drawn again until the last two differ; where they never can (two frames left), they stay equal."""
    frames = draw_frames(rng, length, first=first, count=count, max_jump=max_jump)
    for _ in range(TRIES):
        if count == 1 or frames[-1] != frames[-2]:
            break
        frames = draw_frames(rng, length, first=first, count=count, max_jump=max_jump)
    return frames


def draw_targets(rng: np.random.RandomState, labels: Labels) -> list[int]:
    """Return all `labels` in ascending order, or a random `MAX_OBJECTS` of them in the order drawn."""
    ordered = sorted(labels)
    if len(ordered) <= MAX_OBJECTS:
        return ordered
    return [int(label) for label in rng.choice(ordered, MAX_OBJECTS, replace=False)]


def draw_pair(rng: np.random.RandomState, labels: Labels) -> list[int]:
    """Return a random label and, if there is one, a random second one (videos with several annotated frames)."""
    return [int(label) for label in rng.permutation(sorted(labels))[:2]]


@dataclass(frozen=True, slots=True)
class Choice:
    """Frames and objects of a sequence; `seed` draws its augmentation; `closed`: the last frame becomes a copy of the first."""

    frames: list[int]
    targets: list[int]
    seed: int = 0
    closed: bool = False


@dataclass(frozen=True, slots=True)
class LabelSets:
    """Labels, background 0 included, of the first frame as stored and of the first and last after resize and augmentation."""

    stored: Labels
    first: Labels
    last: Labels


def accept(
    draw: Callable[[], Choice],
    look: Callable[[Choice], LabelSets],
) -> Choice:
    """Return the first draw whose last frame still shows what is followed, as the cycle needs.

    Up to 100 draws. Accepted if every target is in the last frame, or if the number of labels never changed; after 50 failures it
    is enough that the augmentation lost none in the first frame. If the numbers of labels in the first and last frame differ, or
    no draw was accepted, the last frame is replaced by the first.

    Args:
        draw: new frames and targets.
        look: label sets of a draw.
    """
    choice = draw()
    sets = look(choice)
    accepted = False
    for failed in range(TRIES):
        if failed:
            choice = draw()
            sets = look(choice)
        unchanged = len(sets.stored) == len(sets.first)
        accepted = (
            set(choice.targets) <= sets.last
            or (unchanged and len(sets.first) == len(sets.last))
            or (failed > LENIENT_AFTER and unchanged)
        )
        if accepted:
            break
    closed = not accepted or len(sets.first) != len(sets.last)
    return replace(choice, closed=closed)


def labels_of(labels: npt.NDArray[np.integer]) -> Labels:
    """Return the values of a label map, background included."""
    counts = np.bincount(labels.ravel())
    return frozenset(np.flatnonzero(counts).tolist())
