"""Pictures of the code space: places in the plane, masks along a line between two codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from vos_core.io.palette import DAVIS_PALETTE
from vos_core.report.samples import overlay
from vos_core.types import RgbImage

_SIDE = 720
_MARGIN = 48
_INK, _PAPER, _LINE = (30, 30, 30), (255, 255, 255), (215, 215, 215)


def draw_places(places: Tensor, names: Sequence[str], shares: Tensor, *, joined: tuple[int, int] | None = None) -> RgbImage:
    """Return a picture of codes in the plane, uint8 `(720, 720, 3)`.

    Args:
        places: `(K, 2)`; both axes have one scale, so distances can be compared.
        names: written beside the points.
        shares: of all variation along each axis, written at the axes.
        joined: two codes to draw a line between.
    """
    points = places.double().numpy()
    middle = (points.max(0) + points.min(0)) / 2
    reach = max(float((points.max(0) - points.min(0)).max()) / 2, 1e-9)
    pixels = _SIDE / 2 + (points - middle) / reach * (_SIDE / 2 - _MARGIN) * np.array([1, -1])
    image = Image.new("RGB", (_SIDE, _SIDE), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.rectangle((_MARGIN // 2, _MARGIN // 2, _SIDE - _MARGIN // 2, _SIDE - _MARGIN // 2), outline=_LINE)
    pen.text((_SIDE // 2 - 60, _SIDE - 20), f"axis 1: {float(shares[0]):.0%} of the variation", fill=_INK)
    pen.text((4, 6), f"axis 2: {float(shares[1]):.0%}", fill=_INK)
    if joined is not None:
        pen.line([tuple(pixels[joined[0]]), tuple(pixels[joined[1]])], fill=_LINE, width=2)
    for number, (x, y) in enumerate(pixels):
        pen.ellipse((x - 6, y - 6, x + 6, y + 6), fill=colour(number), outline=_INK)
        pen.text((x + 9, y - 6), names[number], fill=_INK)
    return np.asarray(image)


def colour(number: int) -> tuple[int, int, int]:
    """Return the colour of a code: the palette's, made lighter so that it shows on white and on dark alike."""
    red, green, blue = (min(255, int(value) + 40) for value in DAVIS_PALETTE[number % 254 + 1])
    return red, green, blue


def mask_picture(image: Tensor, logits: Tensor) -> RgbImage:
    """Return an image `(3, H, W)`, 0-1, with the mask of logits `(H, W)` painted over it."""
    return overlay(to_rgb(image), (logits > 0).cpu().numpy().astype(np.uint8))


def to_rgb(image: Tensor) -> RgbImage:
    """Return uint8 `(H, W, 3)` of an image `(3, H, W)`, 0-1."""
    return np.ascontiguousarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy())


def draw_grid(rows: Sequence[Sequence[RgbImage]], *, columns: Sequence[str], labels: Sequence[str]) -> RgbImage:
    """Return pictures of one size in a grid, with texts above the columns and beside the rows, uint8 `(H, W, 3)`."""
    height, width = rows[0][0].shape[:2]
    scale = max(1, 96 // min(height, width))
    height, width = height * scale, width * scale
    left, top, gap = 110, 22, 4
    canvas = Image.new("RGB", (left + len(columns) * (width + gap), top + len(rows) * (height + gap)), _PAPER)
    pen = ImageDraw.Draw(canvas)
    for column, text in enumerate(columns):
        pen.text((left + column * (width + gap) + 4, 5), text, fill=_INK)
    for row, (label, pictures) in enumerate(zip(labels, rows, strict=True)):
        y = top + row * (height + gap)
        pen.text((4, y + height // 2 - 6), label[:17], fill=_INK)
        for column, picture in enumerate(pictures):
            cell = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(cell, (left + column * (width + gap), y))
    return np.asarray(canvas)


def png_bytes(rgb: npt.NDArray[np.uint8]) -> bytes:
    """Return a picture as a PNG file."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
