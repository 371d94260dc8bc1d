"""Data set conversions that published numbers rest on: DAVIS at 880x480, LVOS first masks, YouTube-VOS at 480.

Each file is written whole or not at all and finished files are kept, so an interrupted conversion goes on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from vos_core.data.listing import files, first_folder, masks_in, subfolders
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError, VosError
from vos_core.io.atomic import replacing

Resampler = Literal["nearest", "bicubic"]
RESAMPLERS = {"nearest": Image.Resampling.NEAREST, "bicubic": Image.Resampling.BICUBIC}
"""Name -> Pillow's resampler; other libraries' resamplers of the same name give other pixels."""
JPEG_QUALITY = 75
"""Pillow's default, with 4:2:0 chroma: what the published conversions used."""
OnDone = Callable[[int, int], None]
"""Called with the number of finished pieces and of all."""


@dataclass(frozen=True, slots=True)
class Converted:
    """How many files a conversion wrote, and how many were there already or needed no writing."""

    written: int = 0
    kept: int = 0

    def __add__(self, other: Converted) -> Converted:
        return Converted(self.written + other.written, self.kept + other.kept)


def davis_480_880(
    root: Path,
    output: Path,
    *,
    height: int = 480,
    width: int = 880,
    processes: int = 1,
    dry_run: bool = False,
    on_done: OnDone | None = None,
) -> Converted:
    """Write DAVIS with every frame and mask resized by nearest neighbour to one size, names and palettes kept.

    Scores on it are of 880x480 masks (boundary radius 9 instead of 8). RSP and similar label propagation results use it.

    Args:
        root: a folder with `JPEGImages/480p`, `Annotations/480p` and `ImageSets`, or a DAVIS tree that holds one.
        output: receives the same folders.
        height: pixels.
        width: pixels.
        processes: how many convert at once.
        dry_run: write nothing; count what would be written.
        on_done: progress.

    Raises:
        LayoutError: `root` is no DAVIS tree.
        FrameError: a frame cannot be read; MaskError: a mask.
        OutputError: `output` cannot be written.
    """
    candidates = [base / "JPEGImages" / "480p" for base in (root, root / "2017" / "trainval", root / "trainval")]
    base = first_folder(candidates, root=root, what="480p frames").parent.parent
    _refuse_same(base, output)
    tasks = []
    for kind in ("JPEGImages", "Annotations", "Annotations_unsupervised"):
        for name in subfolders(base / kind / "480p"):
            part = Path(kind, "480p", name)
            task = partial(_resize_folder, base / part, output / part, size=(width, height), resampler="nearest")
            tasks.append(partial(task, dry_run=dry_run))
    done = _run(tasks, processes=processes, on_done=on_done)
    return done + _copy_tree(base / "ImageSets", output / "ImageSets", dry_run=dry_run)


def ytvos_480p(root: Path, output: Path, *, size: int = 480, processes: int = 1, on_done: OnDone | None = None) -> Converted:
    """Write a YouTube-VOS split with the short side at `size`: frames bicubic, masks nearest, sides int(side * size / short).

    Args:
        root: a split's folder, usually `train`, with `JPEGImages` and `Annotations`.
        output: receives the same folders and `meta.json`, usually `train_480p` beside it.
        size: short side in pixels.
        processes: how many convert at once.
        on_done: progress.

    Raises:
        LayoutError, FrameError, MaskError, OutputError: as in `davis_480_880`.
    """
    first_folder([root / "JPEGImages"], root=root, what="frames")
    _refuse_same(root, output)
    resamplers: dict[str, Resampler] = {"JPEGImages": "bicubic", "Annotations": "nearest"}
    tasks = [
        partial(_resize_folder, root / kind / name, output / kind / name, size=size, resampler=resampler)
        for kind, resampler in resamplers.items()
        for name in subfolders(root / kind)
    ]
    done = _run(tasks, processes=processes, on_done=on_done)
    if (root / "meta.json").is_file():
        done += _copy(root / "meta.json", output / "meta.json")
    return done


def lvos_convert(
    root: Path, *, output: str = "Annotations_convert", processes: int = 1, on_done: OnDone | None = None
) -> Converted:
    """Write masks that show each id only in its first frame, as servers of late-object protocols give them.

    In each frame only ids that no earlier frame had are kept, and a file is written only where there is a new one.
    Background counts as an id, so the very first frame is always written.

    Args:
        root: a folder with `Annotations/<video>`, or an LVOS tree whose valid split has them.
        output: name of the folder beside `Annotations`.
        processes: how many convert at once.
        on_done: progress.

    Raises:
        LayoutError: there is no `Annotations` folder.
        MaskError: a mask cannot be read.
        OutputError: the folder cannot be written.
    """
    places = [root, *(root / name for name in ("valid", "val", "valid/valid"))]
    masks = first_folder([place / "Annotations" for place in places], root=root, what="folder Annotations")
    if output == "Annotations":
        raise UsageError("the output folder is Annotations itself", fix="Choose another name, such as Annotations_convert")
    names = subfolders(masks)
    if not names:
        raise LayoutError(f"{masks} holds no video folder", fix="Copy the masks from the data set")
    tasks = [partial(_first_masks, masks / name, masks.parent / output / name) for name in names]
    return _run(tasks, processes=processes, on_done=on_done)


def resized(image: Image.Image, *, size: tuple[int, int], resampler: Resampler) -> Image.Image:
    """Return the image at `size` (width, height); label images of mode P keep their indices under `nearest`."""
    return image.resize(size, RESAMPLERS[resampler])


def short_side(size: tuple[int, int], target: int) -> tuple[int, int]:
    """Return (width, height) with the short side at `target`: int(side * target / short).

    >>> short_side((1280, 720), 480)
    (853, 480)
    """
    short = min(size)
    return int(size[0] * target / short), int(size[1] * target / short)


def _resize_folder(
    source: Path, target: Path, *, size: tuple[int, int] | int, resampler: Resampler, dry_run: bool = False
) -> Converted:
    done = Converted()
    for path in files(source):
        place = target / path.name
        try:
            with Image.open(path) as image:
                wanted = short_side(image.size, size) if isinstance(size, int) else size
                if _has_size(place, wanted):
                    done += Converted(kept=1)
                    continue
                if dry_run:
                    done += Converted(written=1)
                    continue
                result = resized(image, size=wanted, resampler=resampler)
                palette = image.getpalette("RGB") if image.mode == "P" else None
        except (OSError, ValueError, SyntaxError) as error:
            kind = MaskError if path.suffix.lower() == ".png" else FrameError
            raise kind(f"{path} cannot be read ({error})", fix="Copy it from the data set again") from error
        if palette is not None:
            result.putpalette(palette, "RGB")
        with replacing(place) as temporary:
            if path.suffix.lower() in (".jpg", ".jpeg"):
                result.save(temporary, quality=JPEG_QUALITY)
            else:
                result.save(temporary)
        done += Converted(written=1)
    return done


def _has_size(path: Path, size: tuple[int, int]) -> bool:
    try:
        with Image.open(path) as image:
            return image.size == size
    except OSError:
        return False


def _first_masks(source: Path, target: Path) -> Converted:
    from vos_core.io.masks import write_mask
    from vos_core.io.png import palette_of, read_indices

    seen = np.zeros(2**16, bool)
    done = Converted()
    for stem, path in sorted(masks_in(source).items()):
        labels = read_indices(path)
        present = np.zeros(2**16, bool)
        present[np.unique(labels)] = True
        new = present & ~seen
        seen |= present
        place = target / f"{stem}.png"
        if not new.any() or place.is_file():
            done += Converted(kept=1)
            continue
        write_mask(place, np.where(new[labels], labels, 0).astype(labels.dtype), palette=palette_of(path))
        done += Converted(written=1)
    return done


def _copy_tree(source: Path, target: Path, *, dry_run: bool = False) -> Converted:
    done = Converted()
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        if path.is_file():
            done += _copy(path, target / path.relative_to(source), dry_run=dry_run)
    return done


def _copy(source: Path, target: Path, *, dry_run: bool = False) -> Converted:
    if target.is_file() and target.stat().st_size == source.stat().st_size:
        return Converted(kept=1)
    if dry_run:
        return Converted(written=1)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    return Converted(written=1)


def _refuse_same(source: Path, output: Path) -> None:
    if source.resolve() == output.resolve():
        raise UsageError(f"{output} is the source itself", fix="Choose another output folder")


def _run(tasks: Sequence[Callable[[], Converted]], *, processes: int, on_done: OnDone | None) -> Converted:
    """Run every task, one a video folder; a failure is raised after the others ended, so a repeat has little left to do."""
    total, failure = Converted(), None
    if processes <= 1:
        for count, task in enumerate(tasks, 1):
            try:
                total += task()
            except VosError as error:
                failure = failure or error
            if on_done is not None:
                on_done(count, len(tasks))
    else:
        with ProcessPoolExecutor(processes) as pool:
            for count, future in enumerate(as_completed([pool.submit(task) for task in tasks]), 1):
                try:
                    total += future.result()
                except VosError as error:
                    failure = failure or error
                if on_done is not None:
                    on_done(count, len(tasks))
    if failure is not None:
        raise failure
    return total
