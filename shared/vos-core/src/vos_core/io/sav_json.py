"""Run-length masks of a clip in JSON: SA-V files with all their keys, `masks` with `fps`, a bare list, SA-1B annotations."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vos_core.errors import MaskError
from vos_core.io.atomic import write_text
from vos_core.io.rle import Rle, area, counts_of, decode, size_of
from vos_core.types import BinaryMask

SAV_FPS = 24.0
SAV_EVERY = 4
"""SA-V annotates every 4th frame of its 24 frames per second."""
_CARRIED = (
    "video_id", "video_duration", "video_frame_count", "video_environment", "video_split",
    "masklet_edited_frame_count", "masklet_type", "masklet_stability_score",
)  # fmt: skip
_SMALL, _LARGE = 32**2, 96**2  # COCO's areas in pixels; they reproduce masklet_size_bucket of the SA-V example


@dataclass(frozen=True, slots=True)
class RleClip:
    """Run-length masks of one clip.

    Args:
        size: (height, width) in pixels.
        frames: T names.
        ids: N object ids as the file has them; SA-V counts from 0.
        masks: T rows of N codes; None where the object has none.
        fps: frames per second of the named frames, if the file says.
        meta: the file's other keys.
    """

    size: tuple[int, int]
    frames: tuple[str, ...]
    ids: tuple[int, ...]
    masks: tuple[tuple[Rle | None, ...], ...]
    fps: float | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def label_ids(self) -> tuple[int, ...]:
        """Return the ids for label maps, where 0 is background: one higher than `ids` if those begin at 0."""
        shift = 1 if 0 in self.ids else 0
        return tuple(object_id + shift for object_id in self.ids)


def read_rle_json(path: Path) -> RleClip:
    """Return the masks of a JSON file in any of the four forms.

    Raises:
        MaskError: the file is missing, not JSON, in none of the forms, or a code in it is malformed.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MaskError(f"mask file {path} cannot be read ({error.strerror})", fix="Check the path") from error
    except ValueError as error:
        raise MaskError(f"mask file {path} is not valid JSON: {error}", fix="Copy or create it again") from error
    try:
        return _parse(data)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise MaskError(f"mask file {path} has a value that cannot be read: {error!r}") from error
    except MaskError as error:
        raise MaskError(f"mask file {path}: {error.found}", expected=error.expected, fix=error.fix) from error


def read_clip_json(path: Path) -> RleClip:
    """Return the masks of a JSON file as `read_rle_json` does; the last few files stay in memory, for reading frame by frame."""
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # the reader says what is wrong
    return _kept(path, changed)


@functools.lru_cache(maxsize=4)
def _kept(path: Path, changed: int) -> RleClip:
    return read_rle_json(path)


def read_json_masks(path: Path, frame_name: str) -> dict[int, BinaryMask]:
    """Return the masks of one frame of a JSON file by the file's ids, all False where an object is absent.

    Raises:
        MaskError: the file cannot be read, or has no such frame.
    """
    clip = read_clip_json(path)
    if frame_name not in clip.frames:
        raise MaskError(f"mask file {path} has no frame {frame_name}", expected=f"one of {clip.frames[0]} to {clip.frames[-1]}")
    row = clip.masks[clip.frames.index(frame_name)]
    empty = np.zeros(clip.size, np.bool_)
    return {object_id: empty if rle is None else decode(rle) for object_id, rle in zip(clip.ids, row, strict=True)}


def write_rle_json(path: Path, clip: RleClip, *, form: Literal["sav", "masks", "list"] = "sav") -> None:
    """Write masks as JSON, atomically.

    Args:
        path: where to.
        clip: what to write; its `meta` fills `video_id`, `video_split`, `masklet_type` and the like of the form `sav`.
        form: `sav` has every key of SA-V; `masks` is {"masks", "fps", "ids", "frames"}; `list` is the masks alone.
    """
    value: Any = [list(row) for row in clip.masks]
    if form == "sav":
        value = _sav(clip, default_name=path.stem)
    elif form == "masks":
        value = {"masks": value, "fps": clip.fps, "ids": list(clip.ids), "frames": list(clip.frames)}
    write_text(path, json.dumps(value) + "\n")


def _parse(data: Any) -> RleClip:
    if isinstance(data, list):
        return _clip(data, {})
    if isinstance(data, dict) and "masklet" in data:
        meta = {key: value for key, value in data.items() if key != "masklet"}
        every = _every(meta, len(data["masklet"]))
        names = meta.get("frames") or [f"{index * every:05d}" for index in range(len(data["masklet"]))]
        return _clip(data["masklet"], meta, ids=data.get("masklet_id"), names=names, fps=_video_fps(meta) / every)
    if isinstance(data, dict) and "masks" in data:
        meta = {key: value for key, value in data.items() if key not in ("masks", "fps", "ids", "frames")}
        fps = float(data["fps"]) if data.get("fps") is not None else None
        return _clip(data["masks"], meta, ids=data.get("ids"), names=data.get("frames"), fps=fps)
    if isinstance(data, dict) and "annotations" in data:
        rows = data["annotations"]
        image = data.get("image", {})
        name = Path(image["file_name"]).stem if "file_name" in image else "00000"
        meta = {"image": image, "annotations": [{k: v for k, v in row.items() if k != "segmentation"} for row in rows]}
        return _clip([[row["segmentation"] for row in rows]], meta, ids=list(range(1, len(rows) + 1)), names=[name])
    raise MaskError(
        f"a JSON {type(data).__name__} without masks",
        expected="SA-V (key masklet), a key masks, a list of frames, or SA-1B (key annotations)",
    )


def _every(meta: Mapping[str, Any], annotated: int) -> int:
    """Return how many video frames lie between annotated ones: SA-V's manual masks have 4, its automatic ones may have 1."""
    total = int(meta.get("video_frame_count") or 0)
    return 1 if total and annotated >= total else SAV_EVERY


def _video_fps(meta: Mapping[str, Any]) -> float:
    frames, seconds = meta.get("video_frame_count"), meta.get("video_duration")
    return float(frames) / float(seconds) if frames and seconds else SAV_FPS


def _clip(
    rows: Sequence[Any],
    meta: Mapping[str, Any],
    *,
    ids: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    fps: float | None = None,
) -> RleClip:
    # A frame is a list of codes, or one code where the clip has one object.
    masks = [tuple(row) if isinstance(row, list) else (row,) for row in rows]
    widths = {len(row) for row in masks}
    if len(widths) != 1:
        raise MaskError(f"frames with {sorted(widths)} masks", expected="every frame has one entry (or null) per object")
    sizes = {size_of(rle) for row in masks for rle in row if rle is not None}
    if not sizes and "video_height" in meta:
        sizes = {(int(meta["video_height"]), int(meta["video_width"]))}
    if len(sizes) != 1:
        raise MaskError(f"masks of the sizes {sorted(sizes)}", expected="at least one mask and one (height, width)")
    for row in masks:
        for rle in row:
            if rle is not None:
                counts_of(rle)
    known = tuple(int(value) for value in ids) if ids is not None else tuple(range(1, widths.pop() + 1))
    frames = tuple(names) if names is not None else tuple(f"{index:05d}" for index in range(len(masks)))
    if len(known) != len(masks[0]) or len(frames) != len(masks) or len(set(known)) != len(known):
        raise MaskError(f"{len(known)} ids and {len(frames)} names for {len(masks)}x{len(masks[0])} masks", expected="one each")
    return RleClip(sizes.pop(), frames, known, tuple(masks), fps, dict(meta))


def _sav(clip: RleClip, *, default_name: str) -> dict[str, Any]:
    height, width = clip.size
    areas = np.array([[0 if rle is None else area(rle) for rle in row] for row in clip.masks], np.int64)
    seen = areas > 0
    mean = [float(column[there].mean()) if there.any() else 0.0 for column, there in zip(areas.T, seen.T, strict=True)]
    first = [int(there.argmax()) if there.any() else None for there in seen.T]
    every = max(1, round(SAV_FPS / clip.fps)) if clip.fps else 1
    count, number = len(clip.frames), len(clip.ids)
    total = (count - 1) * every + 1
    computed = {
        "video_id": default_name,
        "video_duration": total / ((clip.fps or SAV_FPS) * every),
        "video_frame_count": float(total),
        "video_height": float(height),
        "video_width": float(width),
        "video_resolution": float(height * width),
        "video_environment": "",
        "video_split": "",
        "masklet": [list(row) for row in clip.masks],
        "masklet_id": list(clip.ids),
        "masklet_size_rel": [round(value / (height * width), 10) for value in mean],
        "masklet_size_abs": [round(value, 10) for value in mean],
        "masklet_size_bucket": ["small" if v < _SMALL else "medium" if v < _LARGE else "large" for v in mean],
        # Coming and going after the first appearance.
        "masklet_visibility_changes": [
            0 if begin is None else int(np.count_nonzero(np.diff(there[begin:])))
            for there, begin in zip(seen.T, first, strict=True)
        ],
        "masklet_first_appeared_frame": [None if begin is None else float(begin) for begin in first],
        "masklet_frame_count": [count] * number,
        "masklet_edited_frame_count": [0] * number,
        "masklet_type": ["manual"] * number,
        "masklet_stability_score": [None] * number,
        "masklet_num": number,
        # Not a key of SA-V: names that do not count in fours would be lost otherwise.
        "frames": list(clip.frames),
    }
    return computed | {key: clip.meta[key] for key in _CARRIED if key in clip.meta}
