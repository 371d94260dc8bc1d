"""Label maps and binary masks: reading with an explanation of what is wrong, writing with original ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vos_core.errors import MaskError
from vos_core.io.atomic import write_bytes
from vos_core.io.palette import DAVIS_PALETTE, Palette
from vos_core.io.png import COLOUR, COLOUR_ALPHA, GREY, GREY_ALPHA, encode_png, png_header, read_indices
from vos_core.types import VOID, BinaryMask, Clip, LabelMap

Size = tuple[int, int]
"""(height, width) in pixels."""
SUSPICIOUS_IDS = 20
"""More ids than this in a grey mask, mostly thin borders between others, look like anti-aliasing."""


def read_mask(
    path: Path,
    *,
    kind: Literal["labels", "binary"] = "labels",
    size: Size | None = None,
    palette: Palette | None = None,
    on_size: Literal["error", "resize"] = "error",
) -> LabelMap:
    """Return the label map in a PNG file: palette indices or grey values as they are, never by way of colours.

    Args:
        path: a palette or grey PNG of up to 16 bits; RGB(A) only if every colour is one of `palette`.
        kind: `binary` maps two-valued files ({0, 255}, {0, 1}) to {0, 1}.
        size: what it must have.
        palette: colours of RGB files; None = DAVIS.
        on_size: `resize` takes the nearest pixel instead of failing, with a warning.

    Returns:
        `(H, W)`, uint8, or uint16 for 16-bit files.

    Raises:
        MaskError: the file is missing, damaged, of another size, no label map, or anti-aliased.
    """
    header = png_header(path)
    if header.colour in (COLOUR, COLOUR_ALPHA, GREY_ALPHA):
        labels = _by_colour(path, DAVIS_PALETTE if palette is None else palette)
    else:
        labels = read_indices(path)
        if header.colour == GREY and kind == "labels":
            _refuse_smooth(path, labels)
    if kind == "binary":
        labels = _two_valued(path, labels)
    if size is not None and labels.shape != size:
        found = f"mask {path} is {labels.shape[1]}x{labels.shape[0]}"
        if on_size == "error":
            fix = "Resize it with the nearest neighbour, or give the mask of this clip"
            raise MaskError(found, expected=f"{size[1]}x{size[0]}", fix=fix)
        warnings.warn(f"{found}; resized to {size[1]}x{size[0]} with the nearest neighbour", stacklevel=2)
        labels = nearest_resize(labels, size)
    return labels


def read_object_masks(folder: Path, frame_name: str, *, size: Size | None = None) -> dict[int, BinaryMask]:
    """Return the binary masks of a frame from `<folder>/<object id>/<frame_name>.png`, by object id; above 0 is the object.

    Raises:
        MaskError: no object folder has that frame, a folder's name is no number, or masks differ in size.
    """
    found: dict[int, BinaryMask] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        path = place / f"{frame_name}.png"
        if not path.is_file():
            continue
        if not place.name.isdigit():
            raise MaskError(f"object folder {place} has no number for a name", expected="object ids such as 000, 001")
        found[int(place.name)] = read_mask(path, kind="binary", size=size) > 0
    if not found:
        raise MaskError(f"no object folder below {folder} has {frame_name}.png", fix="Check the frame name and the folder")
    if len({mask.shape for mask in found.values()}) > 1:
        raise MaskError(f"the object masks of frame {frame_name} below {folder} differ in size", expected="one size per frame")
    return found


def merge_objects(masks: Mapping[int, BinaryMask]) -> LabelMap:
    """Return one label map of overlapping objects: painted from the highest id to the lowest, so the lowest wins.

    Raises:
        MaskError: there are no masks, or an id is 0, which means background in a label map.
    """
    if not masks or min(masks) < 1:
        raise MaskError(f"objects {sorted(masks)} cannot share a label map", expected="ids of 1 and more", fix="Shift ids by one")
    first = next(iter(masks.values()))
    labels = np.zeros(first.shape, np.uint8 if max(masks) < 256 else np.uint16)
    for object_id in sorted(masks, reverse=True):
        labels[masks[object_id]] = object_id
    return labels


def read_clip_mask(clip: Clip, frame_name: str, size: Size | None = None) -> LabelMap:
    """Return the annotation of a frame as the clip says it is to be read; void becomes background.

    Object folders count from 0 in SA-V; if one is called 0, all ids are one higher than their folders.

    Raises:
        MaskError: there is no annotation for the frame, or it cannot be read.
    """
    path = clip.annotations.get(frame_name)
    if path is None:
        raise MaskError(f"clip '{clip.name}' has no mask for frame {frame_name}")
    if clip.mask_kind == "objects":
        masks = read_object_masks(path, frame_name, size=size)
        shift = 1 if any(place.name.isdigit() and int(place.name) == 0 for place in path.iterdir()) else 0
        return merge_objects({object_id + shift: mask for object_id, mask in masks.items()})
    labels = read_mask(path, kind=clip.mask_kind, size=size)
    if clip.void is not None and clip.mask_kind == "labels" and (labels == clip.void).any():
        labels = np.where(labels == clip.void, 0, labels).astype(labels.dtype)
    return labels


def write_mask(
    path: Path, labels: npt.ArrayLike, *, palette: Palette | None = None, binary: bool = False, compress_level: int = 4
) -> None:
    """Write a label map as a palette PNG (mode P, 8 bit, row filter 0), atomically and with the ids it has.

    Args:
        path: where to.
        labels: integers `(H, W)`, 0..65535. Ids above 255 do not fit a palette: the file is then grey with 16 bits.
        palette: colours; None = DAVIS.
        binary: write grey 0 and 255 for background and any object (DAVIS 2016).
        compress_level: zlib level.

    Raises:
        MaskError: not a label map.
        OutputError: the file cannot be written.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or not (np.issubdtype(array.dtype, np.integer) or array.dtype == np.bool_):
        raise MaskError(f"an array of shape {array.shape} and type {array.dtype} for {path}", expected="integers (H, W)")
    if binary:
        data = encode_png(np.where(array > 0, 255, 0).astype(np.uint8), compress_level=compress_level)
    elif array.size and int(array.max()) > 255:
        data = encode_png(array.astype(np.uint16), compress_level=compress_level)
    else:
        table = DAVIS_PALETTE if palette is None else palette
        data = encode_png(array.astype(np.uint8), palette=table, compress_level=compress_level)
    write_bytes(path, data)


def write_object_masks(
    folder: Path, frame_name: str, masks: Mapping[int, BinaryMask], *, digits: int = 3, foreground: Literal[1, 255] = 255
) -> None:
    """Write each object's mask to `<folder>/<id>/<frame_name>.png`, grey, 0 and `foreground`."""
    for object_id, mask in masks.items():
        path = folder / f"{object_id:0{digits}d}" / f"{frame_name}.png"
        write_bytes(path, encode_png(np.where(mask, foreground, 0).astype(np.uint8)))


def nearest_resize(labels: LabelMap, size: Size) -> LabelMap:
    """Return labels at `size`: output pixel i takes input pixel floor((i + 0.5) * in / out), as Pillow's NEAREST does."""
    rows, columns = (
        np.minimum(((np.arange(out) + 0.5) * (have / out)).astype(np.int64), have - 1)
        for out, have in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def present_ids(labels: LabelMap, *, void: int | None = None) -> list[int]:
    """Return the nonzero values of a label map in ascending order, `void` left out; no sorting of pixels."""
    highest = int(labels.max(initial=0))
    if highest <= 1:
        found = [1] if highest else []
    elif labels.dtype == np.uint8:
        found = np.flatnonzero(np.bincount(labels.ravel(), minlength=2)[1:]).tolist()
        found = [value + 1 for value in found]
    else:
        flags = np.zeros(highest + 1, bool)
        flags[labels] = True
        found = np.flatnonzero(flags[1:]).tolist()
        found = [value + 1 for value in found]
    return [value for value in found if value != void]


def dense_ids(labels: LabelMap, *, void: int | None = VOID) -> tuple[LabelMap, tuple[int, ...]]:
    """Return labels renumbered 1..N in ascending order of their ids, and the ids; `void` becomes background."""
    ids = present_ids(labels, void=void)
    table = np.zeros(int(labels.max(initial=0)) + 1, np.uint8 if len(ids) < 256 else np.uint16)
    table[ids] = np.arange(1, len(ids) + 1)
    return table[labels], tuple(ids)


def original_ids(labels: LabelMap, ids: tuple[int, ...]) -> LabelMap:
    """Return what `dense_ids` was given (but void), from its two results."""
    table = np.asarray((0, *ids), np.uint8 if max(ids, default=0) < 256 else np.uint16)
    return table[labels]


def _by_colour(path: Path, palette: Palette) -> LabelMap:
    try:
        with Image.open(path) as image:
            alpha = np.asarray(image.getchannel("A")) if "A" in image.getbands() else None
            rgb = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise MaskError(f"mask {path} is damaged: {error}", expected="a whole PNG file", fix="Copy or create it again") from error
    if alpha is not None and (alpha != 255).any():
        raise MaskError(f"mask {path} has transparent pixels", expected="a palette or grey PNG", fix="Save it as a palette PNG")
    weights = np.array([65536, 256, 1], np.int64)
    codes, inverse = np.unique(rgb.reshape(-1, 3) @ weights, return_inverse=True)
    known = {int(code): index for index, code in reversed(list(enumerate(palette.astype(np.int64) @ weights)))}
    strangers = [int(code) for code in codes if int(code) not in known]
    if strangers:
        shown = ", ".join(f"({code >> 16}, {code >> 8 & 255}, {code & 255})" for code in strangers[:3])
        smooth = "; so many colours mean anti-aliased edges or JPEG noise" if len(strangers) > SUSPICIOUS_IDS else ""
        raise MaskError(
            f"mask {path} is a colour picture and {len(strangers)} of its {len(codes)} colours are not in the palette, "
            f"for example {shown}{smooth}",
            expected="a palette or grey PNG whose pixel values are object ids, or exactly the palette's colours",
            fix="Save it as a palette PNG without anti-aliasing, or pass the palette it was painted with",
        )
    labels = np.array([known[int(code)] for code in codes], np.uint8)[inverse]
    return labels.reshape(rgb.shape[:2])


def _refuse_smooth(path: Path, labels: LabelMap) -> None:
    """Refuse a grey mask that shows a soft edge instead of ids: many values, and hardly any pixel deep inside one of them."""
    ids = present_ids(labels)
    if len(ids) <= SUSPICIOUS_IDS:
        return
    inner = np.ones((labels.shape[0] - 2, labels.shape[1] - 2), bool)
    middle = labels[1:-1, 1:-1]
    for y in (0, 1, 2):
        for x in (0, 1, 2):
            inner &= labels[y : y + inner.shape[0], x : x + inner.shape[1]] == middle
    solid = set(present_ids(np.where(inner, middle, 0).astype(labels.dtype)))
    if len(solid) < len(ids) / 2:
        raise MaskError(
            f"mask {path} has {len(ids)} grey values, of which {len(ids) - len(solid)} fill no 3x3 pixels: "
            "its edges are anti-aliased",
            expected="pixel values that are object ids, each with a hard edge",
            fix="Draw it without anti-aliasing, or threshold it; for one object, save 0 and 255 only",
        )


def _two_valued(path: Path, labels: LabelMap) -> LabelMap:
    ids = present_ids(labels)
    if len(ids) > 1:
        shown = ", ".join(map(str, ids[:4])) + (", ..." if len(ids) > 4 else "")
        raise MaskError(
            f"mask {path} is to be binary and has the values {shown} besides 0",
            expected="0 and one other value",
            fix="Read it as a label map, or threshold it",
        )
    return (labels > 0).astype(np.uint8)
