"""`vos data check`: everything that is missing or malformed in a data set, each with its file and its fix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vos_core.data.layout import Problem, VideoSet, layout_module, open_layout
from vos_core.data.listing import Findings, files, some_of
from vos_core.errors import MaskError
from vos_core.types import Clip

Depth = Literal["full", "fast"]
"""`full` decodes every file; `fast` looks at names, lists, sizes on disk and headers."""
ClipCheck = Callable[[Clip, Path, Findings], None]
"""Notes further faults of a clip; called with the data set's folder."""
_FIX = "Copy it from the data set again"
_SIZE_FIX = "Give frames and masks of a clip one size (resize masks with nearest neighbour)"


def check(
    layout: str,
    root: str | Path,
    split: str | None = None,
    *,
    depth: Depth = "full",
    workers: int = 1,
    on_clip: Callable[[str, int], None] | None = None,
    **options: Any,
) -> list[Problem]:
    """Return every problem of one split, in the order of the clips; those of names and lists come first.

    Args:
        layout: a layout's name, or `auto`.
        root: the data set's folder.
        split: None for the layout's evaluation split.
        depth: see `Depth`.
        workers: threads that decode.
        on_clip: called with the name of each finished clip and the number of clips, for progress.
        options: of the layout, such as `year=2016`.

    Raises:
        UsageError: no such layout, split or option.
        LayoutError: `root` is no such data set at all.
    """
    found = open_layout(layout, root, split, on_problem="keep", **options)
    return [*found.problems, *check_clips(found, depth=depth, workers=workers, on_clip=on_clip)]


def check_clips(
    videos: VideoSet,
    *,
    depth: Depth,
    workers: int = 1,
    on_clip: Callable[[str, int], None] | None = None,
    extra: ClipCheck | None = None,
) -> list[Problem]:
    """Return the problems inside the files of a set's clips; arguments as in `check`.

    `extra` looks at a clip in which nothing else was found; None = the layout's own `check_clip`, if it has one.
    """
    module = layout_module(videos.layout)
    extra = extra or getattr(module, "check_clip", None)
    classes = getattr(module, "CLASSES", None)  # masks show classes, not objects

    def one(clip: Clip) -> list[Problem]:
        findings = Findings()
        if clip.video is not None:
            _check_video(clip.video, findings, depth=depth)
        else:
            size = _check_frames(clip, findings, depth=depth)
            _check_masks(clip, size, findings, depth=depth, classes=classes)
        if extra is not None and not findings.problems:
            extra(clip, videos.root, findings)
        return findings.problems

    problems: list[Problem] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for clip, found in zip(videos.clips, pool.map(one, videos.clips), strict=True):
            problems += found
            if on_clip is not None:
                on_clip(clip.name, len(videos.clips))
    return problems


def _check_video(path: Path, findings: Findings, *, depth: Depth) -> None:
    if not path.is_file() or not path.stat().st_size:
        findings.error(path, "the video is missing or empty", "Download it again")
    elif depth == "full":
        import cv2

        capture = cv2.VideoCapture(str(path))
        readable, _ = capture.read()
        capture.release()
        if not readable:
            findings.error(path, "no frame of the video can be decoded", "Download it again")


def _check_frames(clip: Clip, findings: Findings, *, depth: Depth) -> tuple[int, int] | None:
    """Return the (height, width) of the clip's first readable frame."""
    size: tuple[int, int] | None = None
    for path in clip.frames:
        found = _frame_size(path, findings, depth=depth)
        if found is None:
            continue
        size = size or found
        if found != size:
            findings.error(path, f"frame is {found[1]}x{found[0]}, the clip's first one {size[1]}x{size[0]}", _SIZE_FIX)
    return size


def _frame_size(path: Path, findings: Findings, *, depth: Depth) -> tuple[int, int] | None:
    try:
        with Image.open(path) as image:
            if depth == "full":
                image.load()
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        what = "is empty" if not path.stat().st_size else f"cannot be read ({error})"
        findings.error(path, f"frame {what}", _FIX)
        return None


def _check_masks(
    clip: Clip, size: tuple[int, int] | None, findings: Findings, *, depth: Depth, classes: Sequence[str] | None
) -> None:
    seen: set[int] = set()
    for name, path in _mask_files(clip):
        try:
            shape, values = _mask_facts(path, clip, depth=depth)
        except MaskError as error:
            findings.error(path, error.found, error.fix or _FIX)
            continue
        if size is not None and shape != size:
            # A run takes one pixel for the rounding of some resizing tool and mends it; more is a mistake.
            near = abs(shape[0] - size[0]) <= 1 and abs(shape[1] - size[1]) <= 1
            note = findings.warning if near else findings.error
            note(path, f"mask is {shape[1]}x{shape[0]}, frame {name} is {size[1]}x{size[0]}", _SIZE_FIX)
        seen.update(int(value) for value in values)
        if classes is not None and values.max(initial=0) >= len(classes):
            findings.error(path, f"mask shows the class {values.max()}, the last one is {len(classes) - 1}", _FIX)
    if classes is not None:
        return
    if depth == "full" and clip.annotations and clip.mask_kind == "labels":
        _check_ids(clip, seen, findings)
    elif depth == "full" and clip.annotations and not seen:
        findings.error(next(iter(clip.annotations.values())), f"no mask of clip '{clip.name}' shows an object", _FIX)


def _mask_files(clip: Clip) -> Iterable[tuple[str, Path]]:
    if clip.mask_kind != "objects":
        yield from clip.annotations.items()
        return
    for folder in sorted({entry for path in set(clip.annotations.values()) for entry in path.iterdir() if entry.is_dir()}):
        for path in files(folder, (".png",)):
            yield path.stem, path


def _mask_facts(path: Path, clip: Clip, *, depth: Depth) -> tuple[tuple[int, int], npt.NDArray[np.integer]]:
    """Return (height, width) and, at full depth, the nonzero values of a mask."""
    from vos_core.io.masks import present_ids, read_mask
    from vos_core.io.png import COLOUR, COLOUR_ALPHA, png_header

    nothing = np.zeros(0, np.int64)
    if path.suffix.lower() == ".png":
        header = png_header(path)
        if depth == "fast":
            if header.colour in (COLOUR, COLOUR_ALPHA) and clip.mask_kind == "labels":
                raise MaskError(f"mask {path} is a colour PNG", fix="Save it as a palette PNG with the object ids as indices")
            return (header.height, header.width), nothing
    elif depth == "fast":
        found = _frame_size(path, findings := Findings(), depth=depth)
        if found is None:
            raise MaskError(findings.problems[0].found, fix=findings.problems[0].fix)
        return found, nothing
    labels = read_mask(path, kind="labels" if clip.mask_kind == "labels" else "binary")
    return (labels.shape[0], labels.shape[1]), np.asarray(present_ids(labels), np.int64)


def _check_ids(clip: Clip, seen: set[int], findings: Findings) -> None:
    first = clip.annotations[min(clip.annotations)]
    ids = sorted(seen - {0, clip.void})
    if not ids:
        found = "only void (255)" if seen - {0} else "no object"
        findings.error(
            first, f"the masks of clip '{clip.name}' show {found}", "Use a layout with binary masks, or mark an object"
        )
        return
    if clip.object_ids is not None:
        unlisted = [str(i) for i in ids if i not in clip.object_ids]
        absent = [str(i) for i in clip.object_ids if i not in ids]
        if unlisted:
            findings.error(
                first.parent, f"masks hold ids {some_of(unlisted)} that the meta file does not list", "Copy both again"
            )
        if absent:
            findings.error(first.parent, f"no mask shows the listed ids {some_of(absent)}", "Copy masks and meta file again")
    if ids != list(range(1, len(ids) + 1)):
        findings.note(
            first.parent, f"ids {some_of([str(i) for i in ids])} are not 1 to {len(ids)}",
            "Nothing to do: ids are kept; the davis2017 protocol counts the gaps as objects",
        )  # fmt: skip
