"""Masks that are pictures: colours mapped back to labels, soft edges recognised instead of read as objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from vos_core.errors import MaskError
from vos_core.io.palette import Palette
from vos_core.types import LabelMap

_MANY_COLOURS = 20
_SOFT_LEVELS = 3
_SOLID_SHARE = 0.25


def labels_by_colour(path: Path, palette: Palette, *, grey_allowed: bool = False) -> tuple[LabelMap, bool]:
    """Return the labels of an RGB(A) or grey-with-alpha PNG, and whether they are grey values instead of palette entries.

    Args:
        path: the file; every pixel must be opaque.
        palette: uint8 `(256, 3)`; each colour that occurs must be exactly one entry.
        grey_allowed: take a picture with R = G = B throughout for grey values, as binary masks from paint programs are.

    Raises:
        MaskError: damaged, transparent, or colours that are not in the palette or twice in it.
    """
    try:
        with Image.open(path) as image:
            is_grey = image.mode in ("LA", "La")
            alpha = np.asarray(image.getchannel("A")) if "A" in image.getbands() else None
            rgb = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MaskError(f"mask {path} is damaged: {error}", expected="a whole PNG file", fix="Copy or create it again") from error
    if alpha is not None and (alpha != 255).any():
        raise MaskError(f"mask {path} has transparent pixels", expected="a palette or grey PNG", fix="Save it as a palette PNG")
    if is_grey or (grey_allowed and bool((rgb == rgb[..., :1]).all())):
        return rgb[..., 0].copy(), True
    return _match(path, rgb, palette), False


def refuse_soft_edges(path: Path, labels: LabelMap) -> None:
    """Raise if grey values are the shades of a soft edge and not ids.

    Soft means: a bright value (a picture's white), three or more other values besides 0, and of the pixels that have those,
    fewer than a quarter equal their right and lower neighbours, since shades of an edge make no areas.

    Raises:
        MaskError: the mask is anti-aliased.
    """
    if labels.dtype != np.uint8 or int(labels.max(initial=0)) < 128:
        return
    counts = np.bincount(labels.ravel(), minlength=256)
    top = int(np.flatnonzero(counts)[-1])
    levels = int(np.count_nonzero(counts[1:top]))
    if levels < _SOFT_LEVELS:
        return
    corner = labels[:-1, :-1]
    solid = (corner == labels[:-1, 1:]) & (corner == labels[1:, :-1]) & (corner == labels[1:, 1:])
    between = (corner > 0) & (corner < top)
    if np.count_nonzero(solid & between) < _SOLID_SHARE * np.count_nonzero(between):
        raise MaskError(
            f"mask {path} has {levels} grey values between 0 and {top} and hardly any area of one of them: "
            "its edges are anti-aliased, these values are no objects",
            expected="pixel values that are object ids, each with a hard edge",
            fix="Draw it without anti-aliasing, or run: vos mask convert SRC DST --binary --threshold 128",
        )


def _match(path: Path, rgb: npt.NDArray[np.uint8], palette: Palette) -> LabelMap:
    weights = np.array([65536, 256, 1], np.int64)
    codes, inverse = np.unique(rgb.reshape(-1, 3) @ weights, return_inverse=True)
    entries = palette.astype(np.int64) @ weights
    hits = codes[:, None] == entries
    strangers = codes[~hits.any(axis=1)]
    if strangers.size:
        shown = ", ".join(_colour(code) for code in strangers[:3])
        soft = "; so many colours mean anti-aliased edges or JPEG noise" if strangers.size > _MANY_COLOURS else ""
        raise MaskError(
            f"mask {path} is a colour picture and {strangers.size} of its {codes.size} colours are not in the palette, "
            f"for example {shown}{soft}",
            expected="a palette or grey PNG whose pixel values are object ids, or exactly the palette's colours",
            fix="Save it as a palette PNG without anti-aliasing, or pass the palette it was painted with",
        )
    unclear = codes[hits.sum(axis=1) > 1]
    if unclear.size:
        raise MaskError(
            f"mask {path} is a colour picture and its colour {_colour(unclear[0])} is more than one entry of the palette",
            expected="colours that name one object each",
            fix="Save it as a palette PNG",
        )
    return hits.argmax(axis=1).astype(np.uint8)[inverse].reshape(rgb.shape[:2])


def _colour(code: int) -> str:
    return f"({int(code) >> 16}, {int(code) >> 8 & 255}, {int(code) & 255})"
