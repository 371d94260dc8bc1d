"""Corruptions that need something from outside: imgaug's cartoon, and style transfer by a function that the user brings."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from stcn_ttt.davis_c.pixel import Picture
from vos_core.errors import UsageError
from vos_core.extras import require

CARTOON = ((1, 1.0, 1.0), (3, 1.2, 1.5), (5, 1.5, 2.0))
"""Median blur size, segmentation size, saturation."""

Stylise = Callable[[Picture, Picture], Picture]
"""`(content, style) -> picture`: uint8 RGB `(H, W, 3)` each; the result has the content's size."""


def cartoon(bgr: Picture, strength: int) -> Picture:
    """Return the frame as imgaug's `stylize_cartoon` draws it; the picture depends a little on the OpenCV build.

    Raises:
        MissingExtraError: imgaug is not installed.
    """
    blur, segmentation, saturation = CARTOON[strength]
    return np.asarray(
        require_cartoon().stylize_cartoon(
            bgr.copy(),
            blur_ksize=blur,
            segmentation_size=segmentation,
            saturation=saturation,
            edge_prevalence=0.8,
            suppress_edges=True,
        )
    )


def load_stylise(name: str) -> Stylise:
    """Return the function that `module:function` names.

    Raises:
        UsageError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        found: Stylise = getattr(importlib.import_module(module), function)
        if not callable(found):
            raise TypeError(f"a {type(found).__name__} is no function")
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"style transfer '{name}' cannot be used ({error})",
            expected="module:function, taking (content, style) as RGB arrays",
        ) from error
    return found


def style(bgr: Picture, strength: int, *, picture: Picture, stylise: Stylise) -> Picture:
    """Return the frame in the style of `picture` (RGB); low and med keep the frame's own chroma, high does not.

    Luma and chroma are those of YCrCb computed as if the RGB data were BGR, as the benchmark was made; hence low equals med.
    """
    rgb = np.ascontiguousarray(bgr[..., ::-1])
    drawn = np.asarray(stylise(rgb, picture), dtype=np.uint8)
    if drawn.shape != rgb.shape:
        raise UsageError(f"the style transfer returned {drawn.shape}", expected=f"the content's {rgb.shape}")
    if strength < 2:
        mixed = cv2.cvtColor(rgb, cv2.COLOR_BGR2YCrCb)
        mixed[..., 0] = cv2.cvtColor(drawn, cv2.COLOR_BGR2YCrCb)[..., 0]
        drawn = np.asarray(cv2.cvtColor(mixed, cv2.COLOR_YCrCb2BGR))
    return np.ascontiguousarray(drawn[..., ::-1])


def require_cartoon() -> Any:
    """Return imgaug's augmenters.

    Raises:
        MissingExtraError: imgaug is not installed.
    """
    if not hasattr(np, "sctypes"):  # imgaug 0.4 still reads a table that NumPy 2 took away
        kinds = {
            "int": [np.int8, np.int16, np.int32, np.int64],
            "uint": [np.uint8, np.uint16, np.uint32, np.uint64],
            "float": [np.float16, np.float32, np.float64],
        }
        np.sctypes = kinds  # type: ignore[attr-defined]
    return require("imgaug.augmenters", extra="cartoon", purpose="draw cartoons", package="stcn-ttt")
