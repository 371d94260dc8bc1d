"""`rmem-deaot demo`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

from rmem_deaot import METHOD
from rmem_deaot.cli.options import rmem_options, take_rmem_options
from vos_core.cli.clips import Selection, select_clips
from vos_core.cli.options import clip_options, device_options, json_option, method_options, ops_option
from vos_core.cli.run import execute
from vos_core.errors import LayoutError

_PATH = click.Path(path_type=Path)
_CLIP_OPTIONS = ("clips", "layout", "root", "split", "video", "mask", "only")


@click.command("demo")
@click.option(
    "--data_path",
    "--data-path",
    type=_PATH,
    default=Path("datasets/Demo"),
    show_default=True,
    help="Folder of images/<sequence> and masks/<sequence>, where no clips are named otherwise.",
)
@click.option(
    "-o",
    "--output_path",
    "--output-path",
    "output",
    type=_PATH,
    default=Path("demo_output"),
    show_default=True,
    help="Folder of results.",
)
@click.option(
    "--format", "container", type=click.Choice(["webm", "mp4"]), default="webm", show_default=True, help="Kind of video."
)
@click.option(
    "--fps", type=click.FloatRange(min=0, min_open=True), default=15.0, show_default=True, help="Frames a second of the video."
)
@click.option("--flip", is_flag=True, help="Average with the mirrored clip.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Keep clips that are done, or run all again.")
@click.option("--overwrite", is_flag=True, help="Replace masks that other settings made.")
@clip_options
@rmem_options
@method_options
@device_options
@ops_option
@json_option
@click.pass_context
def command(context: click.Context, /, data_path: Path, output: Path, container: str, fps: float, **options: Any) -> None:
    """Segment clips with first masks; write masks, painted frames and a video that browsers play.

    Results: masks/<clip>/<frame>.png, overlays/<clip>/<frame>.jpg and <clip>.webm below the output folder. Any number of objects.

    Example: rmem-deaot demo --video clip.mp4 --mask first.png --output_path demo
    """
    named = {name: options.pop(name) for name in _CLIP_OPTIONS}
    chosen = _demo_clips(data_path, named["only"]) if _nothing(named) else select_clips(**named)
    masks = output / "masks"
    code = execute(METHOD, opened=chosen, output=masks, palette="aot", **take_rmem_options({**options, "scales": None}))
    _paint(chosen, output, container=container, fps=fps, afresh=not options["resume"] or options["overwrite"])
    context.exit(code)


def _nothing(named: dict[str, Any]) -> bool:
    return all(named[name] is None for name in _CLIP_OPTIONS if name != "only")


def _demo_clips(root: Path, only: str | None) -> Selection:
    from vos_core.data.folder import single_video

    images = root / "images"
    folders = sorted(path for path in images.iterdir() if path.is_dir()) if images.is_dir() else []
    if not folders:
        raise LayoutError(
            f"{root} holds no sequence",
            expected="images/<sequence> and masks/<sequence>",
            fix="Check --data_path, or name clips with --video, --clips or --layout",
        )
    wanted = None if only is None else {name.strip() for name in only.split(",")}
    clips = tuple(
        single_video(folder, masks if (masks := root / "masks" / folder.name).is_dir() else None, name=folder.name)
        for folder in folders
        if wanted is None or folder.name in wanted
    )
    if not clips:
        raise LayoutError(f"{images} has no sequence {only}", expected=f"names such as {folders[0].name}")
    return Selection(clips, without_mask="fail")


def _paint(chosen: Selection, output: Path, *, container: str, fps: float, afresh: bool) -> None:
    from rmem_deaot.painting import paint_clip

    for clip in chosen.clips:
        masks, pictures, video = (
            output / "masks" / clip.name,
            output / "overlays" / clip.name,
            output / f"{clip.name}.{container}",
        )
        newest = max((path.stat().st_mtime_ns for path in masks.glob("*.png")), default=0)
        if not newest or (video.is_file() and not afresh and video.stat().st_mtime_ns >= newest):
            continue
        shutil.rmtree(pictures, ignore_errors=True)  # what an earlier run painted of other frames
        count = paint_clip(clip, masks, pictures, video, fps=fps)
        click.echo(f"{clip.name}: {count} frames in {video}", err=True)
