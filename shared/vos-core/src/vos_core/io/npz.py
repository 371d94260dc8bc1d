"""Masks of a whole clip in one npz file: label maps, or bits of a binary clip.

Label maps: `masks` uint8 `(T, H, W)` (uint16 if an id exceeds 255), `ids` int64 `(N,)`, `frames` names `(T,)`.
Binary: `packed` uint8 `(T, H, ceil(W / 8))` (first pixel in the highest bit), `shape` int64 `(3,)`, `ids`, `frames`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError
from vos_core.io.atomic import replacing
from vos_core.io.labels import present_ids
from vos_core.types import LabelMap


@dataclass(frozen=True, slots=True)
class MaskVolume:
    """Label maps of a clip: `masks` `(T, H, W)`, `frames` its T names, `ids` the objects, also those that never show."""

    masks: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
    frames: tuple[str, ...]
    ids: tuple[int, ...]


def write_npz(
    path: Path,
    masks: npt.NDArray[np.integer[Any]] | npt.NDArray[np.bool_] | LabelMap,
    *,
    frames: Sequence[str],
    ids: Sequence[int] | None = None,
    form: Literal["labels", "packed"] = "labels",
) -> None:
    """Write label maps `(T, H, W)` to one compressed npz file, atomically.

    Args:
        path: where to.
        masks: `(T, H, W)`, 0..65535.
        frames: T names.
        ids: objects of the clip; None = those that occur.
        form: `packed` stores bits and needs masks of 0 and one id.

    Raises:
        MaskError: shapes do not fit, ids are out of range, or `packed` masks hold more than one object.
    """
    if masks.ndim != 3 or len(frames) != masks.shape[0]:
        raise MaskError(
            f"masks of shape {masks.shape} with {len(frames)} frame names for {path}", expected="(T, H, W) and T names"
        )
    if masks.size and (int(masks.min()) < 0 or int(masks.max()) > 65535):
        raise MaskError(f"masks with values {int(masks.min())} to {int(masks.max())} for {path}", expected="ids of 0..65535")
    wide = bool(masks.size) and int(masks.max()) > 255
    labels: LabelMap = masks.astype(np.uint16) if wide else masks.astype(np.uint8)
    found = present_ids(labels)
    names = np.asarray(list(frames), dtype=np.str_)
    arrays: dict[str, Any] = {"frames": names}
    if form == "packed":
        if len(found) > 1:
            raise MaskError(f"masks of the objects {found} for {path}", expected="one object", fix="Write the form 'labels'")
        arrays |= {"packed": np.packbits(labels > 0, axis=2), "shape": np.asarray(labels.shape, np.int64)}
        found = found or [1]
    else:
        arrays["masks"] = labels
    arrays["ids"] = np.asarray(sorted(ids) if ids is not None else found, np.int64)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_npz(path: Path) -> MaskVolume:
    """Return the label maps of an npz file in either form; absent `ids` are those that occur, absent `frames` numbers.

    Raises:
        MaskError: the file is missing, damaged or holds neither form.
    """
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name in ("masks", "packed", "shape", "ids", "frames")}
    except FileNotFoundError as error:
        raise MaskError(f"mask file {path} does not exist", fix="Check the path") from error
    except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise MaskError(f"mask file {path} cannot be read as npz: {error}", fix="Copy or create it again") from error
    ids = tuple(int(value) for value in arrays["ids"]) if "ids" in arrays else None
    if "packed" in arrays and "shape" in arrays:
        masks = _unpacked(arrays["packed"], arrays["shape"], object_id=ids[0] if ids else 1, path=path)
    elif "masks" in arrays:
        masks = arrays["masks"]
    else:
        raise MaskError(f"mask file {path} holds {sorted(arrays) or 'other arrays'}", expected="masks, or packed and shape")
    if masks.ndim != 3 or masks.dtype not in (np.uint8, np.uint16):
        raise MaskError(f"masks of shape {masks.shape} and type {masks.dtype} in {path}", expected="uint8 (T, H, W)")
    frames = tuple(str(name) for name in arrays.get("frames", [f"{index:05d}" for index in range(len(masks))]))
    if len(frames) != len(masks):
        raise MaskError(f"{len(frames)} frame names for {len(masks)} masks in {path}", expected="one name per mask")
    return MaskVolume(masks, frames, ids if ids is not None else tuple(present_ids(masks)))


def _unpacked(
    packed: npt.NDArray[np.uint8], shape: npt.NDArray[np.int64], *, object_id: int, path: Path
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    size = tuple(int(side) for side in np.ravel(shape))
    if packed.dtype != np.uint8 or len(size) != 3 or packed.shape != (*size[:2], (size[2] + 7) // 8):
        raise MaskError(f"packed masks of shape {packed.shape} for the shape {size} in {path}", expected="(T, H, ceil(W / 8))")
    bits = np.unpackbits(packed, axis=2, count=size[2])
    return bits * (np.uint8(object_id) if object_id < 256 else np.uint16(object_id))
