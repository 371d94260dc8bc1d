"""What a data set on disk is to the rest of the project: a named list of clips, and the registry of layouts that list them.

Every layout file offers `detect(root) -> bool` and `open_set(root, split, *, ...) -> VideoSet`. Listing never stops at the
first fault: it collects `Problem`s, which `open_layout` raises and `vos data check` prints.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip

LAYOUTS: dict[str, tuple[str, str]] = {
    "youtube-vos": ("youtube_vos", "YouTube-VOS 2018 and 2019: train, train_480p, valid, test"),
    "lvos": ("lvos", "LVOS v1 and v2: train, valid, test"),
    "vost": ("vost", "VOST: train, val, test"),
    "sav": ("sav", "SA-V: val, test, train, train_auto"),
    "davis-c": ("davis_c", "DAVIS-C: corrupted frames of the DAVIS 2017 val split"),
    "long-videos": ("long_videos", "Long Videos: val"),
    "davis": ("davis", "DAVIS 2016, 2017, unsupervised and DAVIS_480_880: train, val, trainval, test-dev, test-challenge"),
    "bl30k": ("bl30k", "BL30K: synthetic training clips"),
    "mose": ("mose", "MOSE v1 and v2: train, valid"),
    "jhmdb": ("jhmdb", "JHMDB: clips with joint positions"),
    "vip": ("vip", "VIP: clips with body part labels"),
    "kinetics": ("kinetics", "Kinetics-400: video files by class"),
    "static": ("static", "Still images with masks for pretraining (STCN and AOT forms)"),
    "co3d": ("co3d", "CO3D: category/object/images with masks"),
    "ithor": ("ithor", "iThor-like: object/imgs with masks"),
    "folder": ("folder", "Any folder of clips: JPEGImages and Annotations in either order, or one clip"),
}
"""Layout name -> (module in this package, one-line description), the most telling layouts first."""

ScoreRule = Literal["inner", "all", "after_birth"]
"""`inner`: annotated frames but the first and last; `all`: annotated ones; `after_birth`: outputs after an object's first."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a data set or of a result folder: where, what is wrong and what to do about it.

    `level` `warning` marks what is usable but changes scores, `note` what is merely unusual. `scores_only` marks an error that
    keeps results from being scored and not from being made: a copy of a data set, or a test split, without later masks.
    """

    path: Path
    found: str
    fix: str
    level: Literal["error", "warning", "note"] = "error"
    scores_only: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.found}. {self.fix}."


@dataclass(frozen=True)
class VideoSet:
    """The clips of one split of a data set, described and not yet read.

    Args:
        name: short name such as `davis-2017-val`.
        layout: key of `LAYOUTS`.
        root: the folder that was opened.
        split: split name in the layout's own words; None where there are no splits.
        clips: in the layout's order.
        score_rule: which frames a benchmark scores.
        births: clip name -> object id -> frame name of its first mask, where the layout lists it.
        scored_by_object: clip name -> object id -> scored frame names, where the layout lists them (LVOS).
        problems: what is missing or malformed in names and lists; decoding faults are found by `vos_core.data.check`.
    """

    name: str
    layout: str
    root: Path
    split: str | None
    clips: tuple[Clip, ...]
    score_rule: ScoreRule = "inner"
    births: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    scored_by_object: Mapping[str, Mapping[int, tuple[str, ...]]] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @cached_property
    def _by_name(self) -> dict[str, Clip]:
        return {clip.name: clip for clip in self.clips}

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)

    @property
    def names(self) -> tuple[str, ...]:
        """Clip names in order."""
        return tuple(clip.name for clip in self.clips)

    @property
    def unannotated(self) -> tuple[str, ...]:
        """Names of clips that have frames but no mask, so no mask-prompted method can start on them."""
        return tuple(clip.name for clip in self.clips if not clip.annotations)

    def clip(self, name: str) -> Clip:
        """Return the clip called `name`; raises `UsageError` listing near names if there is none."""
        if name not in self._by_name:
            raise UsageError(f"{self.name} has no clip '{name}'", expected=f"one of: {_shortened(self.names)}")
        return self._by_name[name]

    def subset(self, names: Iterable[str]) -> VideoSet:
        """Return the set with only the clips called `names`, in that order; raises `UsageError` for an unknown one."""
        return replace(self, clips=tuple(self.clip(name) for name in names))

    def first_annotations(self, name: str) -> dict[int, int]:
        """Return object id -> index of the frame that first shows it; reads masks unless the layout lists births.

        Raises:
            MaskError: a mask cannot be read.
        """
        clip = self.clip(name)
        if name in self.births:
            index = {frame: i for i, frame in enumerate(frame_names(clip))}
            return {object_id: index[frame] for object_id, frame in self.births[name].items() if frame in index}
        return first_annotation_table(clip)

    def scored(self, name: str, object_id: int | None = None) -> tuple[str, ...]:
        """Return the frame names that count in scores, of one object or of any.

        Objects that enter late may be scored on fewer frames under the rule `after_birth` and in LVOS.
        """
        clip = self.clip(name)
        if name in self.scored_by_object:
            ranges = self.scored_by_object[name]
            if object_id is not None:
                return ranges.get(object_id, ())
            return tuple(sorted({frame for frames in ranges.values() for frame in frames}))
        names = frame_names(clip)
        if self.score_rule == "after_birth":
            births = self.first_annotations(name)
            born = births.get(object_id) if object_id is not None else min(births.values(), default=None)
            if born is None:
                return ()
            return tuple(frame for frame in names[born + 1 :] if clip.outputs is None or frame in clip.outputs)
        annotated = tuple(frame for frame in names if frame in clip.annotations)
        return annotated if self.score_rule == "all" else annotated[1:-1]


def frame_names(clip: Clip) -> tuple[str, ...]:
    """Return frame names in time order; for a video file only those that have a mask are known without decoding."""
    if clip.video is not None:
        return tuple(f"{i:05d}" for i in range(1 + max((int(n) for n in clip.annotations if n.isdigit()), default=-1)))
    return tuple(path.stem for path in clip.frames)


def first_annotation_table(clip: Clip) -> dict[int, int]:
    """Return object id -> index of the first annotated frame that holds it, in ascending order of ids.

    Reads masks in time order until every id of `clip.object_ids` was seen, else all of them.

    Raises:
        MaskError: a mask cannot be read.
    """
    table: dict[int, int] = {}
    wanted = None if clip.object_ids is None else set(clip.object_ids)
    for index, name in enumerate(frame_names(clip)):
        if name not in clip.annotations:
            continue
        for object_id in _ids_in(clip, name):
            if object_id != clip.void and (wanted is None or object_id in wanted):
                table.setdefault(object_id, index)
        if clip.prompt_rule == "first_frame" or (wanted is not None and table.keys() >= wanted):
            break
    return dict(sorted(table.items()))


def _ids_in(clip: Clip, name: str) -> list[int]:
    from vos_core.io.masks import present_ids, read_clip_mask, read_clip_objects

    if clip.mask_kind != "objects":
        return [int(object_id) for object_id in present_ids(read_clip_mask(clip, name))]
    # Each object alone, since a label map loses those that others cover.
    return [object_id for object_id, mask in read_clip_objects(clip, name).items() if mask.any()]


def open_layout(
    layout: str, root: str | Path, split: str | None = None, *, on_problem: Literal["raise", "keep"] = "raise", **options: Any
) -> VideoSet:
    """Return the clips of a data set.

    Args:
        layout: key of `LAYOUTS`, or `auto` to find out.
        root: the data set's folder.
        split: None for the layout's evaluation split.
        on_problem: `raise` refuses a data set with faults that keep methods from running and warns of others; `keep` leaves
            them in `VideoSet.problems`.
        options: keyword arguments of the layout's `open_set`, such as `year=2016` for `davis`.

    Raises:
        UsageError: no such layout or option.
        LayoutError: the folder is absent, or laid out otherwise, or (with `raise`) faulty.
    """
    root = Path(root)
    if not root.exists():
        raise LayoutError(f"data set folder {root} does not exist", fix="Check the path")
    if layout == "auto":
        layout = detect_layout(root)
    opener = layout_module(layout).open_set
    known = [name for name in inspect.signature(opener).parameters if name not in ("root", "split")]
    for name in options:
        if name not in known:
            raise UsageError(f"layout {layout} has no option '{name}'", expected=f"one of: {', '.join(known) or 'none'}")
    found: VideoSet = opener(root, split, **options)
    errors = [problem for problem in found.problems if problem.level == "error" and not problem.scores_only]
    if errors and on_problem == "raise":
        more = f" (and {len(errors) - 1} more faults: see `vos data check {layout} {root}`)" if len(errors) > 1 else ""
        raise LayoutError(f"{errors[0].path}: {errors[0].found}{more}", fix=errors[0].fix)
    if on_problem == "raise":
        _warn(found, layout)
    return found


def _warn(videos: VideoSet, layout: str) -> None:
    """Say each warning once, however many clips it is about."""
    alike: dict[str, list[Problem]] = {}
    for problem in (problem for problem in videos.problems if problem.level == "warning" or problem.scores_only):
        alike.setdefault(problem.fix, []).append(problem)
    for problems in alike.values():
        more = f" The same of {len(problems) - 1} more: see `vos data check {layout} {videos.root}`." if len(problems) > 1 else ""
        warnings.warn(f"{problems[0]}{more}", stacklevel=3)


def detect_layout(root: str | Path) -> str:
    """Return the name of the layout that `root` follows.

    Raises:
        LayoutError: none is recognised.
    """
    root = Path(root)
    for name in LAYOUTS:
        if root.is_dir() and layout_module(name).detect(root):
            return name
    raise LayoutError(
        f"{root} follows no known layout",
        expected=f"a folder laid out as one of: {', '.join(LAYOUTS)}",
        fix="Name the layout, or put the frames of each clip in JPEGImages/<clip> and its masks in Annotations/<clip>",
    )


def layout_module(layout: str) -> ModuleType:
    """Return the module that lists a layout; raises `UsageError` for an unknown name."""
    if layout not in LAYOUTS:
        raise UsageError(f"there is no layout '{layout}'", expected=f"one of: {', '.join(LAYOUTS)}")
    return importlib.import_module(f"vos_core.data.{LAYOUTS[layout][0]}")


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
