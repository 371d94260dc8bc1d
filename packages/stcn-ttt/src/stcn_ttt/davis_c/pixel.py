"""Corruptions of single frames that need numpy and OpenCV only.

All take and return uint8 `(H, W, 3)` in **BGR** order and treat it as if it were RGB, as the benchmark was made: that matters for
the hue in brightness and saturate and for the order in which noise is drawn. Values are rounded to the nearest even.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

Picture = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Glass:
    """Blur sigma in pixels, largest shuffle offset, number of shuffles."""

    sigma: float
    reach: int
    rounds: int


# Strengths low, med, high = severities 3, 4, 5 of the ImageNet-C scale.
NOISE = (0.18, 0.26, 0.38)
CONTRAST = (0.2, 0.1, 0.05)
BRIGHTNESS = (0.3, 0.4, 0.5)
SATURATE = ((2.0, 0.0), (5.0, 0.1), (20.0, 0.2))
GLASS = (Glass(1.0, 2, 3), Glass(1.1, 3, 2), Glass(1.5, 4, 2))
DEFOCUS = ((6, 0.5), (8, 0.5), (10, 0.5))
PIXELATE = (0.4, 0.3, 0.25)


def gaussian_noise(bgr: Picture, strength: int, rng: np.random.RandomState) -> Picture:
    """Return the frame with independent normal noise on every pixel and channel."""
    x = bgr / 255.0
    return _bytes(x + rng.normal(size=x.shape, scale=NOISE[strength]))


def contrast(bgr: Picture, strength: int) -> Picture:
    """Return the frame drawn towards its mean of each channel."""
    x = bgr / 255.0
    mean = x.mean(axis=(0, 1), keepdims=True)
    return _bytes((x - mean) * CONTRAST[strength] + mean)


def brightness(bgr: Picture, strength: int) -> Picture:
    """Return the frame with a larger HSV value."""
    hsv = _to_hsv(bgr / 255.0)
    hsv[..., 2] = np.clip(hsv[..., 2] + BRIGHTNESS[strength], 0, 1)
    return _bytes(_from_hsv(hsv))


def saturate(bgr: Picture, strength: int) -> Picture:
    """Return the frame with a scaled and shifted HSV saturation."""
    factor, shift = SATURATE[strength]
    hsv = _to_hsv(bgr / 255.0)
    hsv[..., 1] = np.clip(hsv[..., 1] * factor + shift, 0, 1)
    return _bytes(_from_hsv(hsv))


def glass_blur(bgr: Picture, strength: int, rng: np.random.RandomState) -> Picture:
    """Return the frame blurred, its pixels copied from random near ones in scan order, and blurred again."""
    glass = GLASS[strength]
    x = (_gaussian(bgr / 255.0, glass.sigma) * 255).astype(np.uint8)  # truncated, as the original does
    for _ in range(glass.rounds):
        x = _shuffle(x, glass.reach, rng)
    return _bytes(_gaussian(x / 255.0, glass.sigma))


def defocus_blur(bgr: Picture, strength: int) -> Picture:
    """Return the frame convolved with a soft disk."""
    kernel = disk_kernel(*DEFOCUS[strength])
    x = bgr / 255.0
    return _bytes(np.stack([cv2.filter2D(x[..., c], -1, kernel) for c in range(3)], axis=2))


def pixelate(bgr: Picture, strength: int) -> Picture:
    """Return the frame shrunk and enlarged again with Pillow's box filter."""
    image = Image.fromarray(bgr)
    width, height = image.size
    small = image.resize((int(width * PIXELATE[strength]), int(height * PIXELATE[strength])), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BOX))


def disk_kernel(radius: int, alias_blur: float) -> npt.NDArray[np.float32]:
    """Return the anti-aliased disk that defocus convolves with; its cells sum to 1."""
    reach, size = (8, 3) if radius <= 8 else (radius, 5)
    axis = np.arange(-reach, reach + 1)
    columns, rows = np.meshgrid(axis, axis)
    disk = (columns**2 + rows**2 <= radius**2).astype(np.float32)
    disk /= disk.sum()
    return np.asarray(cv2.GaussianBlur(disk, ksize=(size, size), sigmaX=alias_blur), dtype=np.float32)


def _bytes(x: Real) -> Picture:
    return np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _gaussian(x: Real, sigma: float) -> Real:
    """Return each channel blurred in float64, edge pixels repeated, kernel cut at four sigma (scikit-image's defaults)."""
    return np.asarray(gaussian_filter(x, (sigma, sigma, 0), mode="nearest", truncate=4.0))


def _shuffle(x: Picture, reach: int, rng: np.random.RandomState) -> Picture:
    """Return `x` with pixels copied from partners at random offsets in [-reach, reach), scanning from the bottom right.

    The scan is sequential: a partner that came earlier in the scan already holds its copy. Each pixel is written once, so what it
    ends with is found by following partners until one that is not yet written when it is read; following by doubling needs no
    loop over pixels.
    """
    height, width = x.shape[:2]
    rows = np.arange(height - reach, reach, -1)
    columns = np.arange(width - reach, reach, -1)
    offsets = rng.randint(-reach, reach, size=(len(rows), len(columns), 2))  # column offset first, then row offset
    row, column = np.meshgrid(rows, columns, indexing="ij")
    here = row * width + column
    partner = (row + offsets[..., 1]) * width + column + offsets[..., 0]

    turn = np.full(height * width, here.size, dtype=np.int64)  # never visited = never written
    turn[here.ravel()] = np.arange(here.size)
    source = np.arange(height * width)  # where the value comes from, before any copying
    source[here.ravel()] = partner.ravel()
    # A partner visited later than its reader is read before it is written: it gives its original value, the walk ends.
    ends = turn[partner.ravel()] >= turn[here.ravel()]
    step = source.copy()
    done = np.ones(height * width, dtype=bool)
    done[here.ravel()] = ends
    while not done.all():
        onward = step[step]
        step, done = np.where(done, step, onward), done | done[step]
    return x.reshape(-1, 3)[step].reshape(x.shape)


def _to_hsv(rgb: Real) -> Real:
    """Return hexcone HSV, all in 0-1, hue 0 where there is no colour (scikit-image's rule)."""
    value = rgb.max(-1)
    spread = np.ptp(rgb, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        saturation = np.where(spread == 0, 0.0, spread / value)
        red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
        hue = (green - blue) / spread
        hue = np.where(green == value, 2.0 + (blue - red) / spread, hue)
        hue = np.where(blue == value, 4.0 + (red - green) / spread, hue)
    hue = np.where(spread == 0, 0.0, (hue / 6.0) % 1.0)
    return np.stack([hue, saturation, value], axis=-1)


def _from_hsv(hsv: Real) -> Real:
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    sector = np.floor(hue * 6)
    f = hue * 6 - sector
    p, q, t = value * (1 - saturation), value * (1 - f * saturation), value * (1 - (1 - f) * saturation)
    choices = [(value, t, p), (q, value, p), (p, value, t), (p, q, value), (t, p, value), (value, p, q)]
    index = (sector.astype(np.int64) % 6)[..., None]
    return np.choose(index, [np.stack(choice, axis=-1) for choice in choices])
