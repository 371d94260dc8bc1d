"""Label maps and binary masks: reading with an explanation of what is wrong, writing with original ids."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError
from vos_core.io.atomic import write_bytes
from vos_core.io.labels import dense_ids, merge_objects, nearest_resize, original_ids, present_ids, remap_ids
from vos_core.io.palette import DAVIS_PALETTE, Palette
from vos_core.io.picture import labels_by_colour, refuse_soft_edges
from vos_core.io.png import GREY, INDEXED, encode_png, png_header, read_indices
from vos_core.io.sav_json import read_clip_json, read_json_masks
from vos_core.types import BinaryMask, Clip, LabelMap

__all__ = [
    "Size",
    "dense_ids",
    "merge_objects",
    "nearest_resize",
    "original_ids",
    "present_ids",
    "read_clip_mask",
    "read_clip_objects",
    "read_mask",
    "read_object_masks",
    "remap_ids",
    "write_mask",
    "write_object_masks",
]

Size = tuple[int, int]
"""(height, width) in pixels."""


def read_mask(
    path: Path,
    *,
    kind: Literal["labels", "binary"] = "labels",
    size: Size | None = None,
    palette: Palette | None = None,
    on_size: Literal["error", "resize"] = "error",
    threshold: int | None = None,
) -> LabelMap:
    """Return the label map in a PNG file: palette indices or grey values as they are, never by way of colours.

    Args:
        path: a palette or grey PNG of up to 16 bits; RGB(A) only if every colour is one of `palette`.
        kind: `binary` makes every value above 0 the object 1.
        size: (height, width) that it must have.
        palette: colours of RGB files; None = DAVIS.
        on_size: `resize` takes the nearest pixel (rule `centre`) instead of failing, with a warning.
        threshold: for `binary`, the least grey value that belongs to the object; accepts soft edges.

    Returns:
        `(H, W)`, uint8, or uint16 for 16-bit label files.

    Raises:
        MaskError: the file is missing, damaged, of another size, no label map, or anti-aliased.
    """
    header = png_header(path)
    if header.colour in (GREY, INDEXED):
        labels, grey = read_indices(path), header.colour == GREY
    else:
        labels, grey = labels_by_colour(path, DAVIS_PALETTE if palette is None else palette, grey_allowed=kind == "binary")
    if grey and threshold is None:
        refuse_soft_edges(path, labels)
    if kind == "binary":
        labels = (labels >= threshold if grey and threshold is not None else labels > 0).astype(np.uint8)
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
    if not folder.is_dir():
        raise MaskError(f"folder {folder} of object masks does not exist", fix="Check the path")
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


def read_clip_mask(clip: Clip, frame_name: str, size: Size | None = None) -> LabelMap:
    """Return the annotation of a frame as the clip says it is to be read; void becomes background.

    Objects count from 0 in SA-V; if one is called 0, all ids are one higher than in the data set.

    Raises:
        MaskError: there is no annotation for the frame, or it cannot be read.
    """
    path = clip.annotations.get(frame_name)
    if path is None:
        raise MaskError(f"clip '{clip.name}' has no mask for frame {frame_name}")
    if clip.mask_kind == "objects":
        return merge_objects(read_clip_objects(clip, frame_name, size))
    labels = read_mask(path, kind=clip.mask_kind, size=size)
    if clip.void is not None and clip.mask_kind == "labels" and (labels == clip.void).any():
        labels[labels == clip.void] = 0
    return labels


def read_clip_objects(clip: Clip, frame_name: str, size: Size | None = None) -> dict[int, BinaryMask]:
    """Return the masks of a frame of a clip of the kind `objects`, by the ids that `read_clip_mask` gives; overlaps are kept.

    Raises:
        MaskError: there is no annotation for the frame, or it cannot be read.
    """
    path = clip.annotations.get(frame_name)
    if path is None:
        raise MaskError(f"clip '{clip.name}' has no mask for frame {frame_name}")
    shift = object_id_shift(path)
    if path.is_dir():
        found = read_object_masks(path, frame_name, size=size)
    else:
        found = read_json_masks(path, frame_name)
        if size is not None and (shape := next(iter(found.values())).shape) != size:
            raise MaskError(f"masks of {path} are {shape[1]}x{shape[0]}", expected=f"{size[1]}x{size[0]}")
    return {object_id + shift: mask for object_id, mask in found.items()}


def object_id_shift(place: Path) -> int:
    """Return by how much ids exceed those of a folder of object folders or of a JSON file: 1 if one of them is 0, else 0."""
    if place.is_dir():
        return int(any(folder.name.isdigit() and int(folder.name) == 0 for folder in place.iterdir()))
    return int(0 in read_clip_json(place).ids)


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
    if array.size and array.dtype != np.bool_ and (int(array.min()) < 0 or int(array.max()) > 65535):
        raise MaskError(f"labels of {int(array.min())} to {int(array.max())} for {path}", expected="ids of 0..65535")
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
