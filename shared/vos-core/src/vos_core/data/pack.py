"""Result folders to the zip a benchmark server takes: everything is checked first, and nothing written if a check fails."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vos_core.data import sav, vost
from vos_core.data.layout import Problem, VideoSet, first_annotation_table, frame_names, open_layout
from vos_core.data.listing import Findings, files, some_of, subfolders
from vos_core.errors import LayoutError, MaskError, UsageError
from vos_core.io.atomic import replacing
from vos_core.io.png import INDEXED, png_header, read_indices
from vos_core.types import Clip

_RERUN = "Run the method on this clip again"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same masks give the same bytes


@dataclass(frozen=True, slots=True)
class Server:
    """What a benchmark server wants.

    Args:
        layout: of the data set.
        split: the usual one.
        folder: folder inside the zip that holds the clips; empty for the zip's root.
        options: of the layout.
        form: `labels` palette PNGs a clip, or `objects`: binary PNGs in one folder an object.
        late: whether an object before its first given mask is an error.
    """

    layout: str
    split: str
    folder: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    form: Literal["labels", "objects"] = "labels"
    late: bool = False


SERVERS: dict[str, Server] = {
    "davis": Server("davis", "test-dev"),
    "youtube-vos-2018": Server("youtube-vos", "valid", "Annotations", {"year": 2018, "frames": "listed"}, late=True),
    "youtube-vos-2019": Server("youtube-vos", "valid", "Annotations", {"year": 2019, "frames": "listed"}, late=True),
    "mose-v1": Server("mose", "valid", options={"version": 1}),
    "mose-v2": Server("mose", "valid", options={"version": 2}),
    "lvos-v1": Server("lvos", "test", "Annotations", {"version": 1}),
    "lvos-v2": Server("lvos", "test", "Annotations", {"version": 2}),
    "vost": Server("vost", "test"),
    "sav": Server("sav", "test", form="objects"),
}
"""Data set name of `vos pack` -> what its server wants."""


@dataclass(frozen=True)
class PackReport:
    """What was checked and written.

    Args:
        archive: the zip, or None if there are problems.
        clips: clips in it.
        masks: PNGs in it.
        left_out: PNGs of the results that the server does not want, such as frames between annotated ones.
        problems: with level `error` nothing was written.
    """

    archive: Path | None
    clips: int
    masks: int
    left_out: int
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class _Wanted:
    """What one clip must bring: frame names by object folder (`""` for label maps), ids, births and size."""

    name: str
    frames: Mapping[str, tuple[str, ...]]
    ids: frozenset[int] | None = None
    births: Mapping[int, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None


def pack(
    dataset: str,
    results: Path,
    archive: Path,
    *,
    root: Path | None = None,
    split: str | None = None,
    workers: int = 1,
    on_clip: Callable[[str, int], None] | None = None,
) -> PackReport:
    """Check the masks in `results` and write the zip that the server of `dataset` takes.

    Args:
        dataset: key of `SERVERS`.
        results: holds `<clip>/<frame>.png`, perhaps below `Annotations` (and `480p`); other folders are left out with a note.
        archive: the zip; written whole or not at all, equal masks give equal bytes.
        root: the data set. Without it only palette and sizes are checked, not whether clips, frames and ids are right.
        split: None for the server's usual one.
        workers: threads that read masks.
        on_clip: called with each checked clip and the number of clips.

    Raises:
        UsageError: no such data set name.
        LayoutError: `root` is no such data set, or `results` holds no clip.
        MaskError: a first mask of the data set cannot be read.
        OutputError: the zip cannot be written.
    """
    if dataset not in SERVERS:
        raise UsageError(f"no server is known for '{dataset}'", expected=f"one of: {', '.join(SERVERS)}")
    server = SERVERS[dataset]
    findings = Findings()
    wanted: dict[str, Callable[[], _Wanted]]
    if root is None:
        place = _clip_folder(results, ())
        wanted = {name: partial(_wanted_of_results, place / name, server) for name in subfolders(place)}
        findings.note(results, "not checked whether all clips, frames and ids are there", "Give --root to check them")
    else:
        videos = open_layout(server.layout, root, split or server.split, **server.options)
        place = _clip_folder(results, videos.names)
        wanted = {clip.name: partial(_wanted_of_clip, clip, videos, server) for clip in videos.clips}
        strangers = sorted(set(subfolders(place)) - set(videos.names))
        if strangers:
            findings.note(place, f"folders {some_of(strangers)} are no clips of {videos.name} and are left out", "Nothing to do")
    if not wanted:
        raise LayoutError(
            f"{results} holds no clip folder", expected="<clip>/<frame>.png", fix="Give the --output folder of a run"
        )
    entries, left_out = _check_all(place, wanted, server, findings, workers=workers, on_clip=on_clip)
    if any(problem.level == "error" for problem in findings.problems):
        return PackReport(None, len(wanted), len(entries), left_out, tuple(findings.problems))
    _write_zip(archive, entries)
    return PackReport(archive, len(wanted), len(entries), left_out, tuple(findings.problems))


def _check_all(
    place: Path,
    wanted: Mapping[str, Callable[[], _Wanted]],
    server: Server,
    findings: Findings,
    *,
    workers: int,
    on_clip: Callable[[str, int], None] | None,
) -> tuple[dict[str, Path], int]:
    """Return zip name -> file over all clips, and how many PNGs are left out; problems go to `findings`."""

    def one(name: str) -> tuple[dict[str, Path], list[Problem]]:
        own = Findings()
        found = dict(_check_clip(place / name, wanted[name](), own, server=server))
        return found, own.problems

    entries: dict[str, Path] = {}
    present = 0
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for name, (found, problems) in zip(wanted, pool.map(one, wanted), strict=True):
            entries.update({f"{server.folder}/{name}/{key}".lstrip("/"): path for key, path in found.items()})
            findings.problems += problems
            pattern = "*/*.png" if server.form == "objects" else "*.png"
            present += sum(1 for _ in (place / name).glob(pattern))
            if on_clip is not None:
                on_clip(name, len(wanted))
    return entries, present - len(entries)


def _check_clip(folder: Path, wanted: _Wanted, findings: Findings, *, server: Server) -> Iterator[tuple[str, Path]]:
    """Yield (name below the clip, file) of each wanted mask that is there, noting every fault."""
    if not folder.is_dir():
        findings.error(folder, "the clip is missing from the results", "Run the method on it")
        return
    size = wanted.size
    for part, frames in wanted.frames.items():
        place = folder / part if part else folder
        if not place.is_dir():
            findings.error(place, f"object folder {part} is missing", _RERUN)
            continue
        absent = [frame for frame in frames if not (place / f"{frame}.png").is_file()]
        if absent:
            findings.error(place, f"masks of frames {some_of(absent)} are missing", _RERUN)
        for frame in frames:
            path = place / f"{frame}.png"
            if path.is_file():
                size = _check_mask(path, frame, wanted, findings, size=size, server=server)
                yield (f"{part}/{path.name}" if part else path.name), path


def _check_mask(
    path: Path, frame: str, wanted: _Wanted, findings: Findings, *, size: tuple[int, int] | None, server: Server
) -> tuple[int, int] | None:
    """Note what is wrong with one mask; returns the clip's (height, width), which the first mask sets if it is not known."""
    try:
        header = png_header(path)
        labels = read_indices(path)
    except MaskError as error:
        findings.error(path, error.found, error.fix or _RERUN)
        return size
    shape = (header.height, header.width)
    if size is not None and size != shape:
        findings.error(
            path, f"mask is {shape[1]}x{shape[0]}, the frames are {size[1]}x{size[0]}", "Write masks at the frames' size"
        )
    ids = _nonzero(labels)
    if server.form == "objects":
        if len(ids) > 1:
            findings.error(path, f"mask holds values {some_of([str(i) for i in ids])}", "Write one binary mask for each object")
    else:
        if header.colour != INDEXED or header.bits != 8:
            findings.error(path, "mask is not an 8-bit palette PNG (mode P)", "Convert it with `vos mask convert`")
        if wanted.ids is not None and not wanted.ids.issuperset(ids):
            odd = [str(i) for i in ids if i not in wanted.ids]
            known = some_of([str(i) for i in sorted(wanted.ids)])
            findings.error(path, f"ids {some_of(odd)} are not of this clip, which has {known}", "Keep the data set's ids")
        early = [str(i) for i in ids if server.late and frame < wanted.births.get(i, "")]
        if early:
            findings.error(path, f"ids {some_of(early)} are drawn before they enter", _RERUN)
    return size or shape


def _nonzero(labels: Any) -> list[int]:
    import numpy as np

    return [int(value) for value in np.flatnonzero(np.bincount(labels.ravel())) if value]


def _wanted_of_clip(clip: Clip, videos: VideoSet, server: Server) -> _Wanted:
    with Image.open(clip.frames[0]) as image:
        size = (image.height, image.width)
    names = frame_names(clip)
    if server.form == "objects":
        return _Wanted(clip.name, {folder.name: _sav_frames(folder, names) for folder in sav.object_folders(clip)}, size=size)
    if server.layout == "vost":
        return _Wanted(clip.name, {"": vost.submitted_names(videos.root, clip)}, ids=_ids(clip), size=size)
    first = min((i for i, name in enumerate(names) if name in clip.annotations), default=0)
    frames = names[first:] if clip.outputs is None else tuple(name for name in names if name in clip.outputs)
    return _Wanted(clip.name, {"": frames}, ids=_ids(clip), births=videos.births.get(clip.name, {}), size=size)


def _sav_frames(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the 6 fps names of one object: those annotated, or from its only mask on every fourth frame."""
    annotated = [path.stem for path in files(folder, (".png",)) if path.stem in names]
    if len(annotated) != 1:
        return tuple(annotated)
    return names[names.index(annotated[0]) :: sav.STEP]


def _ids(clip: Clip) -> frozenset[int]:
    return frozenset(clip.object_ids if clip.object_ids is not None else first_annotation_table(clip))


def _wanted_of_results(folder: Path, server: Server) -> _Wanted:
    parts = subfolders(folder) if server.form == "objects" else ("",)
    return _Wanted(folder.name, {part: tuple(path.stem for path in files(folder / part, (".png",))) for part in parts})


def _clip_folder(results: Path, names: tuple[str, ...]) -> Path:
    """Return the folder that holds the clip folders: `results`, or `Annotations` or `Annotations/480p` below."""
    if not results.is_dir():
        raise LayoutError(f"result folder {results} does not exist", fix="Give the --output folder of a run")
    for place in (results, results / "Annotations", results / "Annotations" / "480p"):
        inside = set(subfolders(place))
        if inside & set(names) or (not names and inside and not inside & {"Annotations", "480p"}):
            return place
    return results


def _write_zip(archive: Path, entries: Mapping[str, Path]) -> None:
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as target:
        for name in sorted(entries):
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.create_system, info.external_attr = 3, 0o644 << 16
            target.writestr(info, entries[name].read_bytes())
