"""Which clips a command works on: a folder, a data set, or one video with a mask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vos_core.cli.options import split_names
from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip

if TYPE_CHECKING:
    from vos_core.run.runner import WithoutMask


@dataclass(frozen=True, slots=True)
class Selection:
    """Clips to work on.

    Args:
        clips: the clips.
        faults: what a folder holds that looks like a clip and cannot be one.
        without_mask: what becomes of clips without a mask: they fail where the user named them, else they are left out.
    """

    clips: tuple[Clip, ...]
    faults: tuple[str, ...] = ()
    without_mask: WithoutMask = "skip"


def select_clips(
    *,
    clips: Path | None = None,
    layout: str | None = None,
    root: Path | None = None,
    split: str | None = None,
    video: Path | None = None,
    mask: Path | None = None,
    only: str | None = None,
) -> Selection:
    """Return the clips that the options of `clip_options` name.

    Options of a layout follow its name: `davis:year=2016`. A faulty data set is refused; in a plain folder of clips the faulty
    ones are named and the others kept.

    Raises:
        UsageError: not exactly one of `clips`, `layout` and `video`, an option without its partner, or an unknown name in `only`.
        LayoutError: the folder is not what the option needs.
    """
    ways = {"--clips": clips, "--layout": layout, "--video": video}
    used = [name for name, value in ways.items() if value is not None]
    if len(used) != 1:
        found = f"{' and '.join(used)} were given" if used else "no clips were named"
        raise UsageError(found, expected="one of --clips FOLDER, --layout NAME --root DIR, or --video FILE --mask PNG")
    for option, value, partner in (("--root", root, "--layout"), ("--split", split, "--layout"), ("--mask", mask, "--video")):
        if value is not None and partner not in used:
            raise UsageError(f"{option} was given without {partner}", fix=f"Add {partner} or leave out {option}")
    opened = _open(clips, layout, root, split, video, mask)
    if only is None:
        return opened
    names = split_names(only)
    known = {clip.name: clip for clip in opened.clips}
    unknown = [name for name in names if name not in known and not any(name in fault for fault in opened.faults)]
    if unknown or not names:
        shown = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
        raise UsageError(f"no clips are called {', '.join(unknown) or repr(only)}", expected=f"names among: {shown}")
    chosen = tuple(known[name] for name in dict.fromkeys(names) if name in known)
    faults = tuple(fault for fault in opened.faults if any(name in fault for name in names))
    return Selection(chosen, faults, without_mask="fail")


def _open(
    clips: Path | None, layout: str | None, root: Path | None, split: str | None, video: Path | None, mask: Path | None
) -> Selection:
    from vos_core.config import parse_assignments
    from vos_core.data.folder import single_video
    from vos_core.data.layout import open_layout

    if clips is not None:
        folder = open_layout("folder", clips, on_problem="keep")
        faults = [problem for problem in folder.problems if problem.level == "error"]
        if not folder.clips and faults:
            raise LayoutError(f"{faults[0].path}: {faults[0].found}", fix=faults[0].fix)
        return Selection(folder.clips, tuple(str(fault) for fault in faults))
    if layout is not None:
        if root is None:
            raise UsageError(f"--layout {layout} was given without --root", fix="Add --root FOLDER, where the data set lies")
        name, _, options = layout.partition(":")
        return Selection(open_layout(name, root, split, **parse_assignments(options.split(",") if options else ())).clips)
    assert video is not None
    if mask is None:
        raise UsageError(f"--video {video} was given without --mask", fix="Add --mask PNG: the objects in the first frame")
    return Selection((single_video(video, mask),), without_mask="fail")
