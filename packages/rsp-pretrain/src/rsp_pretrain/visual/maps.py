"""Features and attention as pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from vos_core.errors import UsageError
from vos_core.types import RgbImage

STRIP, GAP = 18, 4
"""Pixels above each tile for its text, and between tiles."""
_INK, _PAPER = (30, 30, 30), (255, 255, 255)


def principal_colours(features: Sequence[Tensor]) -> list[RgbImage]:
    """Return the three principal components of all frames together as red, green and blue, uint8 `(h, w, 3)` per frame.

    One basis and one scale for all frames, so that a colour means the same thing everywhere; the scale leaves out one percent of
    the patches on each side. The sign of a component is that of its largest coefficient.

    Args:
        features: `(D, h, w)` per frame; D at least 3.

    Raises:
        UsageError: no frame, or too few channels.
    """
    if not features or features[0].shape[0] < 3:
        raise UsageError("principal components of no frame or of fewer than three channels", expected="features of frames")
    rows = torch.cat([one.flatten(1).t() for one in features]).double().cpu()
    centred = rows - rows.mean(0)
    _, vectors = torch.linalg.eigh(centred.t() @ centred)
    basis = vectors[:, -3:].flip(1)
    largest = basis.abs().argmax(0)
    basis = basis * basis[largest, torch.arange(3)].sign()
    values = (centred @ basis).numpy()
    low, high = np.percentile(values, [1, 99], axis=0)
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    bytes_ = np.rint(scaled * 255).astype(np.uint8)
    pictures, start = [], 0
    for one in features:
        count = one.shape[1] * one.shape[2]
        pictures.append(bytes_[start : start + count].reshape(one.shape[1], one.shape[2], 3))
        start += count
    return pictures


def heat(values: npt.NDArray[np.float32], size: tuple[int, int]) -> RgbImage:
    """Return a map of numbers as colours from dark blue (lowest) to yellow (highest), uint8 `(*size, 3)`, smoothly enlarged."""
    low, high = float(values.min()), float(values.max())
    grey = np.rint(255 * (values - low) / max(high - low, 1e-12)).astype(np.uint8)
    large = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB), np.uint8)


def over(rgb: RgbImage, colours: RgbImage, *, alpha: float = 0.6) -> RgbImage:
    """Return a frame with colours laid over it, `alpha` their share."""
    return np.rint(rgb * np.float32(1 - alpha) + colours * np.float32(alpha)).astype(np.uint8)


def attention_picture(rgb: RgbImage, attention: Tensor, *, name: str) -> RgbImage:
    """Return the frame, the class token's mean attention over it, and that of every head, side by side in rows of four.

    Args:
        rgb: uint8 `(H, W, 3)`.
        attention: `(heads, h, w)`.
        name: of the frame, written above it.
    """
    size = (rgb.shape[0], rgb.shape[1])
    maps = attention.float().cpu().numpy()
    tiles = [rgb, over(rgb, heat(maps.mean(0), size)), *(heat(one, size) for one in maps)]
    return tiled(tiles, [name, "mean of heads", *(f"head {head}" for head in range(len(maps)))], columns=4)


def tiled(pictures: Sequence[RgbImage], texts: Sequence[str], *, columns: int) -> RgbImage:
    """Return pictures of one size in rows of `columns` on white, each with its text above it."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    step = (STRIP + height + GAP, width + GAP)
    canvas = Image.new("RGB", (columns * step[1] - GAP, rows * step[0] - GAP), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for number, (picture, text) in enumerate(zip(pictures, texts, strict=True)):
        top, left = number // columns * step[0], number % columns * step[1]
        pen.text((left + 2, top + 3), text, fill=_INK)
        canvas.paste(Image.fromarray(picture), (left, top + STRIP))
    return np.asarray(canvas)


def fitted(rgb: RgbImage, short: int) -> RgbImage:
    """Return a frame with its shorter side at most `short` pixels, so that pages of large videos stay light."""
    height, width = rgb.shape[:2]
    if min(height, width) <= short:
        return rgb
    scale = short / min(height, width)
    return np.asarray(cv2.resize(rgb, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA), np.uint8)


def enlarged(picture: RgbImage, size: tuple[int, int]) -> RgbImage:
    """Return a picture of patches at the size of the frame, every patch a block."""
    return np.asarray(cv2.resize(picture, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
