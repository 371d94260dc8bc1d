"""Videos and masks in two folders, as the original's tool takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vos_core.cli.clips import Selection
from vos_core.data.listing import files, read_lines, subfolders
from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip


def open_folders(videos: Path, masks: Path, *, listed: Path | None, per_object: bool, late: bool) -> Selection:
    """Return the clips of `videos/<name>/*.jpg` with `masks/<name>/*.png`, or `masks/<name>/<object>/*.png`.

    Args:
        videos: folder of folders of frames.
        masks: folder of folders of masks.
        listed: text file with one name a line; None = all.
        per_object: masks are a folder per object.
        late: follow objects that enter after the first mask, too.

    Raises:
        LayoutError: a folder is not there, or holds no video.
        UsageError: a listed video that is not there.
    """
    for folder in (videos, masks):
        if not folder.is_dir():
            raise LayoutError(f"folder {folder} does not exist", fix="Check --base_video_dir and --input_mask_dir")
    names = subfolders(videos)
    if listed is not None:
        wanted = read_lines(listed)
        strangers = [name for name in wanted if name not in names]
        if strangers or not wanted:
            raise UsageError(
                f"{listed} lists {', '.join(strangers[:5]) or 'nothing'}", expected=f"folders of {videos}, one a line"
            )
        names = tuple(dict.fromkeys(wanted))
    clips, faults = [], []
    for name in names:
        try:
            clip = _clip(name, videos / name, masks / name, per_object=per_object)
        except LayoutError as error:
            faults.append(str(error))
        else:
            clips.append(replace(clip, prompt_rule="first_seen" if late else "first_frame"))
    if not clips:
        if faults:
            raise LayoutError(faults[0])
        raise LayoutError(f"{videos} holds no folder of frames", fix="Check --base_video_dir")
    return Selection(tuple(clips), tuple(faults), without_mask="fail")


def _clip(name: str, video: Path, masks: Path, *, per_object: bool) -> Clip:
    frames = files(video, order="number")
    if not frames:
        raise LayoutError(f"folder {video} holds no image", expected="JPEG frames such as 00000.jpg")
    stems = {path.stem for path in frames}
    if per_object:
        known = sorted({path.stem for folder in subfolders(masks) for path in (masks / folder).glob("*.png")} & stems)
        if not known and files(masks):
            raise LayoutError(f"{masks} holds masks, not a folder per object", fix="Leave out --per_obj_png_file")
        return Clip(name, tuple(frames), annotations=dict.fromkeys(known, masks), mask_kind="objects", void=None)
    found = {path.stem: path for path in sorted(masks.glob("*.png")) if path.stem in stems}
    if not found and subfolders(masks) and not files(masks):
        raise LayoutError(f"{masks} holds folders, not masks", fix="Add --per_obj_png_file if they are one per object")
    # Void is not known to the original: 255 is an object like any other.
    return Clip(name, tuple(frames), annotations=found, void=None)
