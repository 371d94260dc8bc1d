"""Things that move through a synthetic clip: where they are in a frame, and how they are painted there."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vos_core.data.synthetic_texture import sampled, smoothstep, wave
from vos_core.types import RgbImage

Labels = npt.NDArray[np.uint8]
Keys = tuple[tuple[float, float], ...]
"""(place in the period 0-1, value) pairs, both ends included."""
Triples = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Actor:
    """One thing in the scene; lengths in pixels, rates in turns per frame. `object_id` 0 is scenery."""

    object_id: int
    circles: Triples
    planes: Triples
    tiles: tuple[RgbImage, RgbImage]
    start: tuple[float, float]
    target: tuple[float, float]
    rates: tuple[float, float]
    radius: float
    stretch: float
    tilt: float
    zoom: float
    restyle: float
    away: tuple[float, float] = (0.0, 0.0)
    keys: Keys = ((0.0, 0.0), (1.0, 0.0))
    repeats: bool = True
    guide: Actor | None = None

    def centre(self, index: int, period: int) -> tuple[float, float]:
        """Return the row and column of the centre in frame `index`."""
        if self.guide is not None:
            y, x = self.guide.centre(index, period)
        else:
            y, x = (
                start + (target - start) * 0.5 * (1.0 + wave(rate * index - 0.25))
                for start, target, rate in zip(self.start, self.target, self.rates, strict=True)
            )
        share = _between(self.keys, index % period / period if self.repeats else index / period)
        return y + share * self.away[0], x + share * self.away[1]


def paint(image: npt.NDArray[np.int32], labels: Labels, actor: Actor, *, index: int, period: int) -> None:
    """Paint `actor` over `image` `(H, W, 3)` 0-255 and `labels` `(H, W)` in frame `index`, without anti-aliasing."""
    turns = index / period
    y, x = actor.centre(index, period)
    radius = actor.radius * (1.0 + actor.zoom * wave(turns))
    reach = radius * max(actor.stretch, 1.0 / actor.stretch) + 1.0
    top, bottom = max(0, math.floor(y - reach)), min(labels.shape[0], math.ceil(y + reach) + 1)
    left, right = max(0, math.floor(x - reach)), min(labels.shape[1], math.ceil(x + reach) + 1)
    if top >= bottom or left >= right:
        return
    # Half-angle form of a rotation: exact arithmetic, no sine.
    half = actor.tilt * wave(actor.rates[0] * index)
    cos, sin = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    dy, dx = (np.arange(top, bottom) - y)[:, None], (np.arange(left, right) - x)[None, :]
    u = (cos * dx + sin * dy) / (radius * actor.stretch)
    v = (cos * dy - sin * dx) / (radius / actor.stretch)
    inside = np.zeros(u.shape, np.bool_)
    for row, col, size in actor.circles:
        inside |= (v - row) * (v - row) + (u - col) * (u - col) <= size * size
    for a, b, c in actor.planes:
        inside &= a * v + b * u <= c
    u, v = u[inside], v[inside]
    scale = (actor.tiles[0].shape[0] - 2) / 2.2
    rows, cols = (v + 1.1) * scale, (u + 1.1) * scale
    colour = sampled(actor.tiles[0], rows, cols)
    mix = int(16 * actor.restyle * 0.5 * (1.0 + wave(turns - 0.25)))
    if mix:
        colour = (colour * (16 - mix) + sampled(actor.tiles[1], rows, cols) * mix) >> 4
    shade = (256.0 * (1.0 - 0.2 * u - 0.25 * v)).astype(np.int32)[:, None]  # light from the upper left
    image[top:bottom, left:right][inside] = np.minimum((colour * shade) >> 8, 255)
    labels[top:bottom, left:right][inside] = actor.object_id


def random_shape(rng: np.random.Generator) -> tuple[Triples, Triples]:
    """Return circles (row, column, radius), their union cut by half-planes (a, b, c): a·u + b·v <= c; all in the unit disk."""
    kind = int(rng.integers(3))
    if kind == 0:
        return ((0.0, 0.0, 1.0),), ()
    if kind == 1:
        sides = 3 + int(rng.integers(4))
        planes = [
            (*_direction((side + 0.5 * float(rng.random())) / sides), 0.5 + 0.25 * float(rng.random())) for side in range(sides)
        ]
        return ((0.0, 0.0, 1.0),), tuple(planes)
    lobes = 3 + int(rng.integers(3))
    circles = [(0.0, 0.0, 0.45)]
    for lobe in range(lobes):
        y, x = _direction((lobe + 0.6 * float(rng.random())) / lobes)
        reach, radius = 0.4 + 0.15 * float(rng.random()), 0.35 + 0.1 * float(rng.random())
        circles.append((y * reach, x * reach, radius))
    return tuple(circles), ()


def _direction(turns: float) -> tuple[float, float]:
    """Return a unit vector that goes round once as `turns` goes from 0 to 1, not at quite constant speed."""
    y, x = wave(turns), wave(turns + 0.25)
    length = math.sqrt(y * y + x * x)
    return y / length, x / length


def _between(keys: Keys, place: float) -> float:
    """Return the smooth interpolation of (place, value) keys."""
    for (left, low), (right, high) in itertools.pairwise(keys):
        if place < right:
            return low + (high - low) * smoothstep((place - left) / (right - left))
    return keys[-1][1]
