"""Sorting extracted videos into class folders by the table of annotations: the archives are not sorted by class."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rsp_pretrain.kinetics.jobs import Outcome
from rsp_pretrain.kinetics.places import REPLACEMENTS, Places, read_annotations
from vos_core.data.listing import VIDEO_SUFFIXES, some_of
from vos_core.errors import LayoutError
from vos_core.io.atomic import output_error, replacing

Mode = Literal["move", "link", "copy"]


def arrange(
    root: Path,
    *,
    source: Path | None = None,
    mode: Mode = "move",
    dry_run: bool = False,
    on_done: Callable[[int, int], object] | None = None,
) -> Outcome:
    """Put the videos below `source` into `<root>/train/<class>`.

    Args:
        root: data folder with `annotations/train.csv`.
        source: searched at every depth; None = `<root>/extracted`.
        mode: `link` makes hard links, which take no space; `copy` leaves the source as it is.
        dry_run: say how many videos would go where.
        on_done: called with (videos ended, videos in all).

    Returns:
        The outcome; `kept` counts all videos that were in class folders before, `notes["unknown"]` lists videos that the table
        does not name, which stay where they are.

    Raises:
        LayoutError: no table or nothing to arrange.
        OutputError: a video cannot be moved.
    """
    places = Places(root)
    source = places.extracted if source is None else source
    classes = read_annotations(places.annotations)
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."))
    there = {path for videos in places.videos("train").values() for path in videos}
    if not found and not there:
        raise LayoutError(f"there is no video below {source}", fix="Run: rsp-pretrain data extract")
    moves: list[tuple[Path, Path]] = []
    unknown: list[str] = []
    for path in found:
        name = REPLACEMENTS if REPLACEMENTS in path.relative_to(source).parts else classes.get(path.stem)
        if name is None:
            unknown.append(path.name)
        else:
            moves.append((path, root / "train" / name / path.name))
    classes_now = {path.parent.name for path in (*there, *(target for _, target in moves))}
    outcome = Outcome(kept=len(there), notes={"unknown": unknown, "classes": len(classes_now)})
    if unknown:
        outcome.notes["warning"] = f"{some_of(unknown)}: not in {places.annotations.name}, left in place"
    if dry_run:
        outcome.planned = [f"{mode} {path} -> {target}" for path, target in moves if target not in there]
        return outcome
    for count, (path, target) in enumerate(moves, 1):
        _place(path, target, mode, outcome)
        if on_done is not None:
            on_done(count, len(moves))
    return outcome


def _place(path: Path, target: Path, mode: Mode, outcome: Outcome) -> None:
    try:
        size = path.stat().st_size
        if target.is_file():
            if target.stat().st_size != size:
                outcome.failed.append((str(path), f"{target} exists with another size; delete one of them"))
                return
            if mode == "move":
                path.unlink()
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == "move":
            _move(path, target)
        elif mode == "link":
            os.link(path, target)
        else:
            _copy(path, target)
        outcome.written += 1
    except OSError as error:
        raise output_error(target, error) from error


def _move(path: Path, target: Path) -> None:
    try:
        path.rename(target)
    except OSError:  # another file system
        _copy(path, target)
        path.unlink()


def _copy(path: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(path, temporary)
