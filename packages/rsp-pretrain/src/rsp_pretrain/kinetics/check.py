"""The state of a Kinetics-400 folder: how far each step is, and what is missing."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from rsp_pretrain.data.readers import count_frames
from rsp_pretrain.kinetics.download import archive_names
from rsp_pretrain.kinetics.extract import archive_stem
from rsp_pretrain.kinetics.labels import tried_videos
from rsp_pretrain.kinetics.places import CLASSES, REPLACEMENTS, Places, read_annotations
from vos_core.data.kinetics import LABEL_FILES, list_videos
from vos_core.data.listing import VIDEO_SUFFIXES, some_of
from vos_core.errors import FrameError, LayoutError


@dataclass
class State:
    """Counts per step, and problems as (what was found, what to do)."""

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def check(root: Path, *, decode: int = 0, seed: int = 0) -> State:
    """Return how complete `root` is.

    Args:
        root: data folder.
        decode: number of listed videos to decode whole, drawn at random.
        seed: of that draw.

    Raises:
        LayoutError: `root` does not exist or holds nothing of the data set.
        MissingExtraError: `decode` without PyAV.
    """
    places, state = Places(root), State()
    if not root.is_dir():
        raise LayoutError(f"{root} does not exist", fix="Run: rsp-pretrain data download")
    raw, small = places.videos("train"), places.videos("train2")
    lists = [name for name in LABEL_FILES if (places.labels / name).is_file()]
    if not (places.archive_list.is_file() or places.extracted.is_dir() or raw or small or lists):
        raise LayoutError(f"{root} holds nothing of Kinetics-400", fix="Run: rsp-pretrain data download")
    _archives(places, state)
    _raw(places, state, raw)
    state.counts["train2"] = sum(map(len, small.values()))
    if small:
        pairs = ((name, path.stem) for name, paths in raw.items() for path in paths)
        there = {(name, path.stem) for name, paths in small.items() for path in paths}
        absent = [f"{name}/{stem}" for name, stem in pairs if (name, stem) not in there]
        if absent:
            fix = "Run: rsp-pretrain data rescale; delete those that it cannot decode"
            state.problems.append((f"train2 lacks {some_of(absent)}", fix))
    elif raw and not lists:
        fix = "Run: rsp-pretrain data rescale, or go on with the raw ones: rsp-pretrain data labels --filedir train"
        state.problems.append(("train2 has no video", fix))
    if lists:
        _listed(root, state, decode=decode, seed=seed)
    else:
        state.problems.append((f"{places.labels} has no label list", "Run: rsp-pretrain data labels"))
    return state


def _archives(places: Places, state: State) -> None:
    listed = archive_names(places.archive_list)
    names = [*listed, places.replacements.name] if listed else []
    done = {path.name.removesuffix(".done.json") for path in places.extracted.glob("*.done.json")}
    found = {path.name for path in (*(places.archives / name for name in listed), places.replacements) if path.is_file()}
    absent = [name for name in names if name not in found and archive_stem(name) not in done]
    state.counts |= {"archives listed": len(listed), "archives extracted": len(done - {REPLACEMENTS})}
    if absent:
        state.problems.append((f"archives {some_of(absent)} are missing", "Run: rsp-pretrain data download"))
    if listed and not places.annotations.is_file():
        state.problems.append((f"{places.annotations} is missing", "Run: rsp-pretrain data download"))
    waiting = [name for name in names if name in found and archive_stem(name) not in done]
    if waiting:
        state.problems.append((f"archives {some_of(waiting)} are not extracted", "Run: rsp-pretrain data extract"))
    left = [path.name for path in places.extracted.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES]
    if left:
        state.problems.append((f"{len(left)} extracted videos are not arranged by class", "Run: rsp-pretrain data arrange"))


def _raw(places: Places, state: State, raw: dict[str, list[Path]]) -> None:
    state.counts |= {"train": sum(map(len, raw.values())), "classes": len(raw)}
    if raw and len(raw) < CLASSES:
        state.problems.append(
            (f"train has {len(raw)} class folders, a whole copy {CLASSES}", "Ignore this for a part of the data")
        )
    if raw and places.annotations.is_file():
        stems = {path.stem for paths in raw.values() for path in paths}
        table = read_annotations(places.annotations)
        state.counts["annotated"] = len(table)
        absent = [name for name in table if name not in stems]
        if absent:
            fix = "Download the rest, or ignore this for a part of the data"
            state.problems.append((f"train lacks {len(absent)} of {len(table)} videos of the table", fix))


def _listed(root: Path, state: State, *, decode: int, seed: int) -> None:
    videos = list_videos(root)
    absent = [str(video.path) for video in videos if not video.path.is_file()]
    state.counts |= {"labels": len(videos), "labels without video": len(absent)}
    if absent:
        state.problems.append((f"the label list names {some_of(absent)}, not there", "Run: rsp-pretrain data labels"))
    there = [video.path for video in videos if video.path.is_file()]
    folders = {path.relative_to(root).parts[0] for path in there if path.is_relative_to(root)}
    known = {*there, *(root / name for name in tried_videos(root))}
    new = [
        str(path)
        for name in sorted(folders)
        for paths in Places(root).videos(name).values()
        for path in paths
        if path not in known
    ]
    if new:
        state.problems.append((f"{some_of(new)}: never decoded, so not in the label list", "Run: rsp-pretrain data labels"))
    for path in random.Random(seed).sample(there, min(decode, len(there))):
        try:
            count_frames(path)
        except FrameError as error:
            state.problems.append((str(error), "Run: rsp-pretrain data labels"))
        state.counts["decoded"] = state.counts.get("decoded", 0) + 1
