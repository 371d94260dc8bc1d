"""Masks of a clip from one container to another: PNG folders, object folders, run-length JSON, npz."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vos_core.errors import MaskError, UsageError
from vos_core.io.frames import natural_key
from vos_core.io.labels import merge_objects, present_ids
from vos_core.io.masks import read_mask, read_object_masks, write_mask, write_object_masks
from vos_core.io.npz import read_npz, write_npz
from vos_core.io.palette import DAVIS_PALETTE, Palette
from vos_core.io.rle import decode, encode
from vos_core.io.sav_json import RleClip, read_rle_json, write_rle_json
from vos_core.types import BinaryMask, LabelMap

MaskForm = Literal["png", "objects", "sav", "rle", "list", "npz", "packed"]
"""`png`: one label map per frame; `objects`: a folder per object; `sav`, `rle`, `list`: JSON; `npz`, `packed`: arrays."""


@dataclass(frozen=True, slots=True)
class MaskSequence:
    """Masks of a clip, read on demand.

    Args:
        frames: T names.
        size: (height, width) in pixels.
        read: frame index -> masks by object id (1..65535); objects may overlap and may be absent.
        ids: every object of the clip, if the container lists them.
        fps: frames per second of the named frames, if known.
        meta: further values that SA-V JSON holds.
    """

    frames: tuple[str, ...]
    size: tuple[int, int]
    read: Callable[[int], Mapping[int, BinaryMask]]
    ids: tuple[int, ...] = ()
    fps: float | None = None
    meta: Mapping[str, object] | None = None

    def labels(self, index: int) -> LabelMap:
        """Return one label map; where objects overlap, the lowest id wins."""
        masks = self.read(index)
        return merge_objects(masks) if masks else np.zeros(self.size, np.uint8)


def open_masks(
    path: Path,
    *,
    form: MaskForm | None = None,
    binary: bool = False,
    threshold: int | None = None,
    on_size: Literal["error", "resize"] = "error",
) -> MaskSequence:
    """Return the masks in a PNG file, a folder of PNGs or of object folders, a JSON or an npz file.

    Args:
        path: what to read; object folders that count from 0 become ids from 1.
        form: how to read it; None = by the suffix, and a folder without PNGs of its own holds object folders. Within JSON and
            npz the content says which form it is.
        binary: every value above 0 is object 1 (label PNGs only).
        threshold: with `binary`, the least grey value of the object, for masks with soft edges.
        on_size: what to do with label PNGs of another size than the first; `resize` takes the nearest pixel and warns.

    Raises:
        MaskError: missing, in no known form, or damaged.
        UsageError: an option that the form does not have.
    """
    if threshold is not None and not binary:
        raise UsageError("a threshold without binary masks", fix="Add --binary")
    if not path.exists():
        raise MaskError(f"masks {path} do not exist", expected="a folder of PNGs, a .json or a .npz file", fix="Check the path")
    form = form or _found_form(path)
    if form != "png" and (binary or on_size == "resize"):
        raise UsageError(f"--binary or --resize for {path}, which is read as {form}", expected="label PNGs", fix="Leave it out")
    if form != "png" and path.is_dir() != (form == "objects"):
        expected = "a folder" if form == "objects" else "a file"
        raise UsageError(f"{path} cannot be read as {form}", expected=expected, fix="Choose another --from, or leave it out")
    if form in ("sav", "rle", "list"):
        return _from_json(path)
    if form in ("npz", "packed"):
        return _from_npz(path)
    if form == "objects":
        return _from_objects(path)
    files = [path] if path.is_file() else _pngs_in(path)
    if not files:
        raise MaskError(f"folder {path} holds no masks", expected="PNG files", fix="Check the path and --from")
    return _from_pngs(files, binary=binary, threshold=threshold, on_size=on_size)


def form_of(path: Path) -> MaskForm:
    """Return the form that a path's suffix asks for: `sav` for .json, `npz` for .npz, else `png`."""
    forms: dict[str, MaskForm] = {".json": "sav", ".npz": "npz"}
    return forms.get(path.suffix.lower(), "png")


def save_masks(
    path: Path, masks: MaskSequence, *, form: MaskForm | None = None, fps: float | None = None, palette: Palette = DAVIS_PALETTE
) -> tuple[int, ...]:
    """Write masks to `path` and return the ids that were found.

    Label maps (`png`, `npz`, `packed`) hold one object per pixel: where objects overlap, the lowest id wins.

    Args:
        path: a folder for `png` and `objects` (or a single .png for one frame), else a file.
        masks: what to write.
        form: see `MaskForm`; None = by the suffix of `path`.
        fps: frames per second for JSON; None = as the source says.
        palette: colours of `png`.

    Raises:
        UsageError: form and suffix contradict each other.
        MaskError: a mask cannot be read or does not fit the form.
    """
    form = form or form_of(path)
    suffix = {"sav": ".json", "rle": ".json", "list": ".json", "npz": ".npz", "packed": ".npz"}.get(form, "")
    given = path.suffix.lower()
    if given != suffix and (suffix or given in (".json", ".npz", ".png")) and not (form == "png" and given == ".png"):
        expected = f"a name that ends in {suffix}" if suffix else "a folder"
        raise UsageError(f"'{path.name}' is to hold the form {form}", expected=expected)
    if form in ("sav", "rle", "list"):
        return _save_json(path, masks, form="sav" if form == "sav" else "masks" if form == "rle" else "list", fps=fps)
    if fps is not None:
        raise UsageError(f"frames per second for {path} of the form {form}", expected="JSON", fix="Leave out --fps")
    if form in ("npz", "packed"):
        return _save_npz(path, masks, packed=form == "packed")
    if form == "objects":
        return _save_objects(path, masks)
    single = path.suffix.lower() == ".png"
    if single and len(masks.frames) != 1:
        raise UsageError(f"{len(masks.frames)} masks are to go into the file {path}", expected="a folder")
    found: set[int] = set()
    for index, name in enumerate(masks.frames):
        labels = masks.labels(index)
        found.update(present_ids(labels))
        write_mask(path if single else path / f"{name}.png", labels, palette=palette)
    return tuple(sorted(found))


def _found_form(path: Path) -> MaskForm:
    return "objects" if path.is_dir() and not _pngs_in(path) else "png" if path.is_dir() else form_of(path)


def _pngs_in(folder: Path) -> list[Path]:
    files = (file for file in folder.iterdir() if file.suffix.lower() == ".png" and not file.name.startswith("."))
    return sorted(files, key=lambda file: natural_key(file.name))


def _from_pngs(files: list[Path], *, binary: bool, threshold: int | None, on_size: Literal["error", "resize"]) -> MaskSequence:
    def labels(index: int, size: tuple[int, int] | None) -> LabelMap:
        kind: Literal["binary", "labels"] = "binary" if binary else "labels"
        return read_mask(files[index], kind=kind, size=size, threshold=threshold, on_size=on_size)

    height, width = labels(0, None).shape

    def read(index: int) -> Mapping[int, BinaryMask]:
        return _split(labels(index, (height, width)))

    return MaskSequence(tuple(file.stem for file in files), (height, width), read)


def _from_objects(folder: Path) -> MaskSequence:
    places = [place for place in folder.iterdir() if place.is_dir() and place.name.isdigit()]
    names = sorted({file.stem for place in places for file in place.glob("*.png")}, key=natural_key)
    if not names:
        raise MaskError(f"folder {folder} holds no masks", expected="PNG files, or folders 001, 002, ... of PNG files")
    shift = 1 if any(int(place.name) == 0 for place in places) else 0
    height, width = next(iter(read_object_masks(folder, names[0]).values())).shape

    def read(index: int) -> Mapping[int, BinaryMask]:
        found = read_object_masks(folder, names[index], size=(height, width))
        return {object_id + shift: mask for object_id, mask in found.items()}

    ids = tuple(sorted(int(place.name) + shift for place in places))
    return MaskSequence(tuple(names), (height, width), read, ids)


def _from_json(path: Path) -> MaskSequence:
    clip = read_rle_json(path)
    ids = clip.label_ids()

    def read(index: int) -> Mapping[int, BinaryMask]:
        return {key: decode(rle) for key, rle in zip(ids, clip.masks[index], strict=True) if rle is not None}

    return MaskSequence(clip.frames, clip.size, read, ids, clip.fps, clip.meta)


def _from_npz(path: Path) -> MaskSequence:
    volume = read_npz(path)
    height, width = volume.masks.shape[1:]
    return MaskSequence(volume.frames, (height, width), lambda index: _split(volume.masks[index]), volume.ids)


def _split(labels: LabelMap) -> Mapping[int, BinaryMask]:
    return {object_id: labels == object_id for object_id in present_ids(labels)}


def _save_objects(path: Path, masks: MaskSequence) -> tuple[int, ...]:
    ids = masks.ids or tuple(sorted({key for index in range(len(masks.frames)) for key in masks.read(index)}))
    if not ids:
        raise MaskError(f"no object in any of {len(masks.frames)} masks for {path}", expected="at least one")
    nothing = np.zeros(masks.size, np.bool_)
    for index, name in enumerate(masks.frames):
        found = masks.read(index)
        # An object that does not show gets an empty mask, else a frame without any would be lost.
        write_object_masks(path, name, {key: found.get(key, nothing) for key in sorted({*ids, *found})})
    return ids


def _save_npz(path: Path, masks: MaskSequence, *, packed: bool) -> tuple[int, ...]:
    volume = np.zeros((len(masks.frames), *masks.size), np.uint16)
    for index in range(len(masks.frames)):
        volume[index] = masks.labels(index)
    ids = tuple(sorted({*masks.ids, *present_ids(volume)}))
    write_npz(path, volume, frames=masks.frames, ids=ids, form="packed" if packed else "labels")
    return ids


def _save_json(path: Path, masks: MaskSequence, *, form: Literal["sav", "masks", "list"], fps: float | None) -> tuple[int, ...]:
    rows = [{key: encode(mask) for key, mask in masks.read(index).items()} for index in range(len(masks.frames))]
    ids = tuple(sorted({*masks.ids, *(key for row in rows for key in row)}))
    if not ids:
        raise MaskError(f"no object in any of {len(rows)} masks for {path}", expected="at least one")
    table = tuple(tuple(row.get(key) for key in ids) for row in rows)
    same_objects = len(ids) == len(masks.ids)
    kept = {key: value for key, value in (masks.meta or {}).items() if same_objects or not key.startswith("masklet_")}
    write_rle_json(path, RleClip(masks.size, masks.frames, ids, table, fps or masks.fps, kept), form=form)
    return ids


FORMS: tuple[MaskForm, ...] = get_args(MaskForm)
"""Every form that `save_masks` writes."""
