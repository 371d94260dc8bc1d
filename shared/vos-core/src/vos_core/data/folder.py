"""Any folder of clips, and any single video: frames and masks matched by stem, masks as sparse as they come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from vos_core.data.layout import VideoSet, open_layout
from vos_core.data.listing import (
    Findings,
    files,
    listed_clip,
    masks_in,
    one_per_stem,
    read_lines,
    some_of,
    subfolders,
)
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.io.images import IMAGE_SUFFIXES
from vos_core.types import Clip


def detect(root: Path) -> bool:
    """Return whether `root` holds clips in one of the generic forms."""
    frames = root / "JPEGImages"
    if files(root) or (frames.is_dir() and (files(frames) or any(files(frames / name) for name in subfolders(frames)))):
        return True
    return any(files(root / name / "JPEGImages") for name in subfolders(root))


def open_set(
    root: Path, split: str | None = None, *, annotations: str = "Annotations", masks: str | Path | None = None
) -> VideoSet:
    """Return the clips below a folder; clips without masks are listed and named by `VideoSet.unannotated`.

    Args:
        root: `JPEGImages/<clip>` with `<annotations>/<clip>`; `<clip>/JPEGImages` with `<clip>/<annotations>`; one clip's
            `JPEGImages` with `<annotations>`; or one clip's images themselves.
        split: a list file (one clip name a line), or None for all clips.
        annotations: name of the mask folder.
        masks: for one clip, its mask file or mask folder wherever it is.

    Raises:
        LayoutError: no clip is there, or the list file cannot be read.
    """
    findings = Findings()
    frames = root / "JPEGImages"
    if masks is not None or files(root) or files(frames):
        place = root if files(root) else frames
        beside = root / annotations if (root / annotations).is_dir() else None
        clips = [single_video(place, Path(masks) if masks is not None else beside, name=root.resolve().name)]
    elif frames.is_dir():
        clips = _listed([(name, frames / name, root / annotations / name) for name in subfolders(frames)], findings)
    else:
        names = [name for name in subfolders(root) if (root / name / "JPEGImages").is_dir()]
        clips = _listed([(name, root / name / "JPEGImages", root / name / annotations) for name in names], findings)
    if not clips and not findings.problems:
        raise LayoutError(
            f"{root} holds no clip",
            expected="images, JPEGImages/<clip>/*.jpg or <clip>/JPEGImages/*.jpg",
            fix="Give the folder of clips",
        )
    for clip in clips:
        if not clip.annotations:
            findings.note(
                clip.frames[0].parent if clip.frames else root, f"clip '{clip.name}' has no mask", "Give it a first mask"
            )
    found = VideoSet(root.resolve().name, "folder", root, split, tuple(clips), problems=tuple(findings.problems))
    return found if split is None else found.subset(_listed_names(Path(split)))


def open_folder(root: str | Path, *, annotations: str = "Annotations", masks: str | Path | None = None) -> VideoSet:
    """Return the clips below any folder as `open_set` lists them, refusing one with faults; raises `LayoutError`."""
    return open_layout("folder", root, annotations=annotations, masks=masks)


def single_video(video_or_folder: str | Path, mask_path: str | Path | None = None, *, name: str | None = None) -> Clip:
    """Return one clip: a video file or a folder of images, with a mask file, a folder of masks or none.

    A mask file whose stem is no frame's name belongs to the first frame. Frames of a video file are called 00000, 00001, ...

    Args:
        video_or_folder: a video file, a folder of images, or a folder that holds `JPEGImages`.
        mask_path: None leaves a clip that other prompts must start.
        name: clip name; the file's or folder's own by default.

    Raises:
        FrameError: there is neither a video nor an image.
        MaskError: the mask is absent, or no mask of the folder has a frame's name.
    """
    path = Path(video_or_folder)
    if path.is_dir():
        place = path if files(path) or not (path / "JPEGImages").is_dir() else path / "JPEGImages"
        own = path.resolve()
        findings = Findings()
        images = tuple(one_per_stem(files(place, order="number"), findings))
        if findings.problems:
            raise FrameError(str(findings.problems[0].path) + ": " + findings.problems[0].found, fix=findings.problems[0].fix)
        if not images:
            raise FrameError(f"folder {path} holds no image", expected=f"files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
        clip = Clip(name or (own.parent if own.name == "JPEGImages" else own).name, frames=images)
        stems = [image.stem for image in images]
        return _with_masks(clip, mask_path, first=stems[0], known=set(stems))
    if not path.is_file():
        raise FrameError(f"video {path} does not exist", fix="Check the path")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        raise FrameError(
            f"{path} is one image", expected="a video file or a folder of images", fix="Give the folder that holds it"
        )
    return _with_masks(Clip(name or path.stem, video=path), mask_path, first="00000", known=None)


def is_binary_mask(path: Path) -> bool:
    """Return whether `path` is a PNG of the grey values 0 and 255 alone, 255 being there; saved as RGB or with alpha, too.

    Raises:
        MaskError: the file cannot be read.
    """
    return _grey_values(path) in ({0, 255}, {255})


def with_mask_kind(clip: Clip) -> Clip:
    """Return the clip with `mask_kind` `binary` if its first mask that is not empty is grey 0/255, as in DAVIS 2016."""
    for _, path in sorted(clip.annotations.items()):
        try:
            if is_binary_mask(path):
                return replace(clip, mask_kind="binary", void=None)
            if _grey_values(path) != {0}:
                return clip
        except MaskError:
            return clip  # whoever reads it says what is wrong
    return clip


def _grey_values(path: Path) -> set[int] | None:
    """Return the values of a grey PNG, or None for palette indices, palette colours and other files."""
    from vos_core.io.palette import DAVIS_PALETTE
    from vos_core.io.picture import labels_by_colour
    from vos_core.io.png import GREY, INDEXED, png_header, read_indices

    if path.suffix.lower() != ".png" or (colour := png_header(path).colour) == INDEXED:
        return None
    values, grey = (read_indices(path), True) if colour == GREY else labels_by_colour(path, DAVIS_PALETTE, grey_allowed=True)
    return set(np.flatnonzero(np.bincount(values.ravel())).tolist()) if grey else None


def _listed(places: list[tuple[str, Path, Path]], findings: Findings) -> list[Clip]:
    clips = (
        listed_clip(
            name,
            frames,
            masks if masks.is_dir() else None,
            findings,
            annotated="some" if files(masks) else "none",
            order="number",
        )
        for name, frames, masks in places
    )
    return [with_mask_kind(clip) for clip in clips if clip is not None]


def _listed_names(path: Path) -> list[str]:
    if not path.is_file():
        raise UsageError(f"split {path} is not a file", expected="for folders of clips, a text file with one clip name a line")
    return read_lines(path)


def _with_masks(clip: Clip, mask_path: str | Path | None, *, first: str, known: set[str] | None) -> Clip:
    if mask_path is None:
        return clip
    path = Path(mask_path)
    if path.is_file():
        named = path.stem if (path.stem in known if known is not None else _is_frame_number(path.stem)) else first
        return with_mask_kind(replace(clip, annotations={named: path}))
    if not path.is_dir():
        raise MaskError(f"mask {path} does not exist", fix="Check the path")
    found = masks_in(path)
    if known is None:
        fitting = {f"{int(stem):05d}": mask for stem, mask in found.items() if stem.isdigit()}
    else:
        fitting = {stem: mask for stem, mask in found.items() if stem in known}
    if not fitting:
        holds = f"masks {some_of(sorted(found))}" if found else "no mask"
        raise MaskError(
            f"mask folder {path} holds {holds}, none of which belongs to a frame of '{clip.name}'",
            expected=f"a mask with the stem of a frame, such as {first}.png",
        )
    return with_mask_kind(replace(clip, annotations=dict(sorted(fitting.items()))))


def _is_frame_number(stem: str) -> bool:
    return len(stem) >= 5 and stem.isdigit()
