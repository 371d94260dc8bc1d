"""Smooth waves, seeded noise and texture tiles of the synthetic clips.

Only operations that IEEE 754 rounds exactly (no sine, no logarithm, no matrix product) and integer arithmetic,
so that a seed gives the same bytes on every machine.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np
import numpy.typing as npt

from vos_core.types import RgbImage

Field = npt.NDArray[np.float64]
"""float64 `(H, W)`, 0-1."""
_STEPS = 16  # sub-pixel positions of the integer interpolation


def generator(*key: int) -> np.random.Generator:
    """Return the random generator of a key of non-negative integers; only `integers` and `random` are to be drawn from it."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def wave(turns: float) -> float:
    """Return a smooth wave in -1..1 with period 1, zero at 0: the shape of a sine from two parabolas.

    >>> wave(0.25), wave(1.75)
    (1.0, -1.0)
    """
    x = turns - math.floor(turns)
    return 16.0 * x * (0.5 - x) if x < 0.5 else -16.0 * (x - 0.5) * (1.0 - x)


def smoothstep(x: float) -> float:
    """Return 0 below 0, 1 above 1 and a smooth step between."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


def noise(rng: np.random.Generator, height: int, width: int, *, cell: float, octaves: int = 4) -> Field:
    """Return value noise whose largest features are `cell` pixels and whose finest are `cell / 2**(octaves - 1)`."""
    total = np.zeros((height, width))
    weight, weights = 1.0, 0.0
    for octave in range(octaves):
        size = max(cell / 2.0**octave, 1.0)
        rows, cols = np.arange(height) / size, np.arange(width) / size
        grid = rng.random((int(rows[-1]) + 2, int(cols[-1]) + 2))
        row, col = rows.astype(np.int64), cols.astype(np.int64)
        y, x = _ease(rows - row)[:, None], _ease(cols - col)[None, :]
        along = grid[row] * (1.0 - y) + grid[row + 1] * y
        total += weight * (along[:, col] * (1.0 - x) + along[:, col + 1] * x)
        weights += weight
        weight *= 0.55
    return total / weights


def object_tile(rng: np.random.Generator, colours: Field, size: int) -> RgbImage:
    """Return a `(size, size, 3)` pattern (patches, stripes, spots or checks) in three saturated colours."""
    coarse = noise(rng, size, size, cell=size / 5, octaves=3)
    rows, cols = np.arange(size)[:, None] / size, np.arange(size)[None, :] / size
    kind = int(rng.integers(4))
    count = 4 + int(rng.integers(5))
    if kind == 0:
        pattern = coarse
    elif kind == 1:
        pattern = _triangle((rows * float(rng.random()) + cols) * count + 1.5 * coarse)
    elif kind == 2:
        pattern = _triangle(rows * count + coarse) * _triangle(cols * count + 0.5 * coarse)
    else:
        pattern = 0.5 * (np.floor(rows * count * 2) % 2) + 0.5 * (np.floor(cols * count * 2) % 2)
    fine = noise(rng, size, size, cell=max(size / 24, 2.0), octaves=3)
    return _colour(_contrast(pattern), fine, colours)


def background_tile(rng: np.random.Generator, height: int, width: int) -> RgbImage:
    """Return a `(height, width, 3)` muted landscape of noise at many scales."""
    hue = float(rng.random())
    colours = palette(hue, saturation=0.12 + 0.2 * float(rng.random()), spread=0.12)
    coarse = noise(rng, height, width, cell=min(height, width) / 2.5, octaves=5)
    fine = noise(rng, height, width, cell=max(min(height, width) / 30, 3.0), octaves=3)
    return _colour(_contrast(coarse), fine, colours)


def palette(hue: float, *, saturation: float, spread: float) -> Field:
    """Return three RGB colours `(3, 3)`, 0-255, dark to light, whose hues lie within `spread` turns around `hue`."""
    rows = [
        colorsys.hsv_to_rgb((hue - spread) % 1.0, saturation, 0.35),
        colorsys.hsv_to_rgb(hue % 1.0, saturation, 0.62),
        colorsys.hsv_to_rgb((hue + spread) % 1.0, saturation * 0.7, 0.95),
    ]
    return np.asarray(rows) * 255.0


def shifted(tile: RgbImage, top: float, left: float, *, height: int, width: int) -> npt.NDArray[np.int32]:
    """Return the `(height, width, 3)` window of `tile` whose corner lies at a fractional place, interpolated in 1/16 pixels."""
    y, x = math.floor(top), math.floor(left)
    fy, fx = int((top - y) * _STEPS), int((left - x) * _STEPS)
    window = tile[y : y + height + 1, x : x + width + 1].astype(np.int32)
    rows = window[:-1] * (_STEPS - fy) + window[1:] * fy
    return (rows[:, :-1] * (_STEPS - fx) + rows[:, 1:] * fx) >> 8


def sampled(tile: RgbImage, rows: Field, cols: Field) -> npt.NDArray[np.int32]:
    """Return the colours `(P, 3)` of a square tile at fractional places `(P,)`, clamped to it, interpolated in 1/16 pixels."""
    last = tile.shape[0] - 2
    y, x = np.clip(rows.astype(np.int64), 0, last), np.clip(cols.astype(np.int64), 0, last)
    fy = np.clip((rows - y) * _STEPS, 0, _STEPS).astype(np.int32)[:, None]
    fx = np.clip((cols - x) * _STEPS, 0, _STEPS).astype(np.int32)[:, None]
    flat, stride = tile.reshape(-1, 3), tile.shape[1]
    corner = y * stride + x
    upper = flat[corner] * (_STEPS - fx) + flat[corner + 1] * fx
    lower = flat[corner + stride] * (_STEPS - fx) + flat[corner + stride + 1] * fx
    mixed: npt.NDArray[np.int32] = (upper * (_STEPS - fy) + lower * fy) >> 8
    return mixed


def _ease(x: Field) -> Field:
    return x * x * (3.0 - 2.0 * x)


def _triangle(x: Field) -> Field:
    return np.abs(2.0 * (x - np.floor(x)) - 1.0)


def _contrast(field: Field) -> Field:
    low, high = float(field.min()), float(field.max())
    return _ease((field - low) / max(high - low, 1e-9))


def _colour(pattern: Field, fine: Field, colours: Field) -> RgbImage:
    place = pattern[..., None] * 2.0
    lower = colours[0] + (colours[1] - colours[0]) * np.clip(place, 0.0, 1.0)
    image = lower + (colours[2] - colours[1]) * np.clip(place - 1.0, 0.0, 1.0)
    image = image * (0.7 + 0.6 * fine[..., None])
    return np.clip(image, 0.0, 255.0).astype(np.uint8)
