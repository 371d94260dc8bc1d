"""Image files as frames: which files, in which order, decoded whole or not at all."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vos_core.errors import FrameError
from vos_core.types import RgbImage

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
ImageBackend = Literal["pillow", "opencv"]
"""Decoders differ by 1 to 3 levels: a method names the one that its reference used."""


def list_images(folder: Path) -> list[Path]:
    """Return the image files of a folder in natural order.

    Raises:
        FrameError: no such folder, or none in it.
    """
    if not folder.is_dir():
        raise FrameError(f"frame folder {folder} does not exist", fix="Check the path")
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    if not found:
        raise FrameError(f"folder {folder} holds no images", expected=f"files that end in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return sorted(found, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[tuple[bool, int, str]]:
    """Return a sort key that puts `frame2` before `frame10`, and digits before letters."""
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part) for part in re.split(r"(\d+)", name) if part]


def read_image(path: Path, *, backend: ImageBackend = "pillow") -> RgbImage:
    """Return an image file as uint8 `(H, W, 3)` RGB; an EXIF orientation is ignored.

    Raises:
        FrameError: the file is missing, truncated or no image.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"frame {path} cannot be read ({error.strerror})", fix="Check that it exists and is readable") from error
    return _decode_pillow(data, path) if backend == "pillow" else _decode_opencv(data, path)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image file as it is stored, from its header.

    Raises:
        FrameError: the file is missing or no image.
    """
    try:
        with Image.open(path) as image:
            return (image.height, image.width)
    except FileNotFoundError as error:
        raise FrameError(f"frame {path} does not exist", fix="Check the path") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(path, _reason(error, empty=path.stat().st_size == 0)) from error


def to_rgb(bgr: Any) -> RgbImage:
    """Return what OpenCV decoded with its channels in the order RGB."""
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _decode_pillow(data: bytes, path: Path) -> RgbImage:
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode.startswith("I"):  # 16-bit grey, which convert would clip to white
                grey = (np.asarray(image).astype(np.int64) >> 8).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(image.convert("RGB") if image.mode != "RGB" else image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _damaged(path, _reason(error, empty=not data)) from error


def _decode_opencv(data: bytes, path: Path) -> RgbImage:
    # OpenCV fills the missing part of a truncated JPEG with grey and only prints a warning.
    if data[:2] == b"\xff\xd8" and not _jpeg_is_whole(data):
        raise _damaged(path, "the JPEG data ends early")
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if bgr is None:
        raise _damaged(path, "it cannot be decoded" if data else "it is empty")
    return to_rgb(bgr)


def _jpeg_is_whole(data: bytes) -> bool:
    """Return whether an end marker follows the picture's scan; inside a scan those bytes cannot occur."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", at) >= 0
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


def _reason(error: Exception, *, empty: bool) -> str:
    if empty:
        return "it is empty"
    return "its content is no known kind of image" if isinstance(error, UnidentifiedImageError) else str(error)


def _damaged(path: Path, why: str) -> FrameError:
    return FrameError(f"frame {path} is damaged: {why}", expected="a whole image file", fix="Copy or extract it again")
