"""Which frames and objects of a video make a training clip. All numbers come from one `random.Random`, in a fixed order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from vos_core.errors import VosError

Visible = Callable[[int], Sequence[int]]
"""Frame index -> ids of the objects seen there, in order of their first pixel; reading them draws no random number."""
TRIES = 1000


class SampleError(VosError):
    """A video from which no clip can be drawn; the data set draws from another one instead."""


@dataclass(frozen=True, slots=True)
class ClipDraw:
    """Frame indices in the order they are shown, and the ids of the objects to follow."""

    frames: tuple[int, ...]
    objects: tuple[int, ...]


class ClipSampler(Protocol):
    """Draws a clip from a video of `length` frames."""

    def draw(self, length: int, visible: Visible, rng: random.Random) -> ClipDraw:
        """Return frames and objects; raises `SampleError` if the video gives none."""
        ...


@dataclass(frozen=True, slots=True)
class UniformSampler:
    """Consecutive frames from a uniform start (spec 4.2, RandomUniform).

    Args:
        num_frames: frames of a clip.
        max_num_objects: objects drawn at most.
        reverse_time_prob: share of clips shown backwards; the number is drawn even at 0.
        allow_repeat: videos that are too short run back and forth instead of being refused.
    """

    num_frames: int
    max_num_objects: int
    reverse_time_prob: float = 0.0
    allow_repeat: bool = False

    def draw(self, length: int, visible: Visible, rng: random.Random) -> ClipDraw:
        """Return a clip whose first frame shows an object.

        Raises:
            SampleError: too few frames, or no object after 1000 tries.
        """
        if length < self.num_frames and not (self.allow_repeat and length > 0):
            raise _too_short(length, self.num_frames)
        for _ in range(TRIES):
            if length < self.num_frames:
                frames = back_and_forth(length, self.num_frames)
            else:
                start = rng.randrange(0, length - self.num_frames + 1)
                frames = list(range(start, start + self.num_frames))
            if rng.uniform(0, 1) < self.reverse_time_prob:
                frames.reverse()
            seen = list(visible(frames[0]))
            if seen:
                return ClipDraw(tuple(frames), _some(seen, self.max_num_objects, rng))
        raise SampleError(f"no object is visible in the first frame of {TRIES} drawn clips")


@dataclass(frozen=True, slots=True)
class GapSampler:
    """A walk forward with a random gap at every step (spec 4.2, RandomGap).

    A walk that would leave the video takes the frames right after its last one, as far as there are any. Videos of fewer than
    about 1.5 times `num_frames` therefore starve: nearly every walk ends too early.

    Args:
        num_frames: frames of a clip.
        max_num_objects: objects drawn at most.
        gap_options: steps to choose from, in frames.
        ensure_first_frame_visible: take only clips whose first frame shows an object.
        reverse_time_prob: share of clips shown backwards; the number is drawn even at 0.
        consecutive_if_starved: draw consecutive frames, as `UniformSampler` does, where the walk finds none; the published
            recipe refuses such videos.
    """

    num_frames: int
    max_num_objects: int
    gap_options: tuple[int, ...] = (1, 2, 3)
    ensure_first_frame_visible: bool = True
    reverse_time_prob: float = 0.0
    consecutive_if_starved: bool = False

    def draw(self, length: int, visible: Visible, rng: random.Random) -> ClipDraw:
        """Return a clip.

        Raises:
            SampleError: too few frames, or no fitting walk after 1000 tries.
        """
        if length < self.num_frames:
            raise _too_short(length, self.num_frames)
        for _ in range(TRIES):
            frames = self._walk(length, rng)
            if len(frames) == self.num_frames and (not self.ensure_first_frame_visible or visible(frames[0])):
                if rng.random() < self.reverse_time_prob:
                    frames.reverse()
                return ClipDraw(tuple(frames), _some(list(visible(frames[0])), self.max_num_objects, rng))
        if self.consecutive_if_starved:
            plain = UniformSampler(self.num_frames, self.max_num_objects, self.reverse_time_prob)
            return plain.draw(length, visible, rng)
        raise SampleError(
            f"no walk of {self.num_frames} frames with gaps {list(self.gap_options)} was found in {length} frames",
            fix="Pass --set sampler.consecutive_if_starved=true to use such videos, or shorten clips: sampler.num_frames",
        )

    def _walk(self, length: int, rng: random.Random) -> list[int]:
        frames = [rng.randint(0, length - 1)]
        while len(frames) < self.num_frames:
            following = frames[-1] + rng.choice(self.gap_options)
            if following >= length:
                frames += range(frames[-1] + 1, min(length, frames[-1] + 1 + self.num_frames - len(frames)))
                break
            frames.append(following)
        return frames


def back_and_forth(length: int, count: int) -> list[int]:
    """Return `count` indices that run to the last frame and back without repeating the ends.

    >>> back_and_forth(3, 8)
    [0, 1, 2, 1, 0, 1, 2, 1]
    """
    cycle = [*range(length), *range(length - 2, 0, -1)]
    return [cycle[i % len(cycle)] for i in range(count)]


def _some(seen: list[int], most: int, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.sample(seen, min(len(seen), most)))


def _too_short(length: int, wanted: int) -> SampleError:
    return SampleError(
        f"the video has {length} frames with masks, a clip {wanted}",
        fix=f"Shorten clips, such as --set sampler.num_frames={max(length, 1)}, or leave the video out",
    )
