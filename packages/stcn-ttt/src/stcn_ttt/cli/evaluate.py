"""`stcn-ttt eval`: the benchmarks, with the paths and rules of the original's evaluation scripts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stcn_ttt import METHOD
from stcn_ttt.cli.options import stcn_options, take_stcn_options
from vos_core.cli.options import device_options, json_option, method_options, output_options
from vos_core.cli.run import execute
from vos_core.errors import LayoutError, UsageError

if TYPE_CHECKING:
    from vos_core.types import Clip

_FOLDER = click.Path(path_type=Path)
DATASETS = ("davis", "davis16", "davis-c", "youtube", "mose", "generic")
TEST_DEV_MEM_EVERY = 3
"""The authors' test-dev numbers were made with this; at 5 they are lower."""


@dataclass(frozen=True, slots=True)
class _Where:
    """Paths that the user gave."""

    davis: Path | None
    youtube: Path | None
    data: Path | None
    corrupted: Path | None


@click.command("eval")
@click.option("--dataset", type=click.Choice(DATASETS), help="Which benchmark [default: told by the path option].")
@click.option("--davis-path", "--davis_path", type=_FOLDER, help="DAVIS: the folder DAVIS, or its 2017 or 2016.")
@click.option("--yv-path", "--yv_path", type=_FOLDER, help="YouTube-VOS: the folder that holds valid and all_frames.")
@click.option("--data-path", "--data_path", type=_FOLDER, help="MOSE, or any folder of JPEGImages and Annotations.")
@click.option("--corrupted-image-dir", "--corrupted_image_dir", type=_FOLDER, help="DAVIS-C frames of one corruption.")
@click.option("--split", metavar="NAME", help="val, testdev, valid, train, test [default: the benchmark's].")
@click.option("--video-set-filename", "--video_set_filename", type=_FOLDER, help="Text file with one clip name per line.")
@click.option("--output-all", "--output_all", is_flag=True, help="Write every frame, also those that are not scored.")
@click.option(
    "--req-frames",
    "--req_frames",
    is_flag=True,
    help="YouTube-VOS: run only the frames that are scored; the numbers in their names say when to remember.",
)
@stcn_options
@output_options
@method_options
@device_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    dataset: str | None,
    davis_path: Path | None,
    yv_path: Path | None,
    data_path: Path | None,
    corrupted_image_dir: Path | None,
    split: str | None,
    video_set_filename: Path | None,
    output_all: bool,
    req_frames: bool,
    **options: Any,
) -> None:
    """Segment a benchmark the way its published numbers were made; score the result with vos eval.

    DAVIS test-dev remembers every 3rd frame unless --mem-every says otherwise; YouTube-VOS runs all frames where they are there.

    Example: stcn-ttt eval --davis_path DAVIS/2017 --split val --model stcn.pth --output out
    """
    from vos_core.cli.clips import Selection

    where = _Where(davis_path, yv_path, data_path, corrupted_image_dir)
    dataset = dataset or _told_by(where)
    if req_frames and (dataset != "youtube" or output_all):
        raise UsageError("--req-frames leaves out frames that are not scored", expected="YouTube-VOS without --output-all")
    split = {"testdev": "test-dev"}.get(split or "", split)
    clips = _open(dataset, where, split, listed_only=req_frames)
    if video_set_filename is not None:
        clips = _only(clips, video_set_filename)
    if output_all:
        clips = tuple(replace(clip, outputs=None) for clip in clips)
    if dataset == "davis" and split == "test-dev" and options["mem_every"] is None:
        options["mem_every"] = TEST_DEV_MEM_EVERY
    chosen = take_stcn_options(options)
    if req_frames:
        chosen["assignments"] = ("clock=names", *chosen["assignments"])
    context.exit(execute(METHOD, opened=Selection(clips), **chosen))


def _told_by(where: _Where) -> str:
    if where.corrupted is not None:
        return "davis-c"
    told = {"davis": where.davis, "youtube": where.youtube, "generic": where.data}
    named = [name for name, path in told.items() if path is not None]
    if len(named) != 1:
        found = "no data set was named" if not named else "several data sets were named"
        raise UsageError(found, expected="one of --davis_path, --yv_path and --data_path, or --dataset with its path")
    return named[0]


def _open(dataset: str, where: _Where, split: str | None, *, listed_only: bool) -> tuple[Clip, ...]:
    from vos_core.data.layout import open_layout

    if dataset in ("davis", "davis16"):
        return open_layout(
            "davis", _path(where.davis, "--davis_path", dataset), split, year=2016 if dataset == "davis16" else 2017
        ).clips
    if dataset == "davis-c":
        truth = _path(where.davis, "--davis_path", dataset)
        return open_layout("davis-c", _path(where.corrupted, "--corrupted_image_dir", dataset), split, davis_root=truth).clips
    if dataset == "youtube":
        # The original's default split val does not exist here.
        split = "valid" if split == "val" else split
        frames = "listed" if listed_only else "auto"
        return open_layout("youtube-vos", _path(where.youtube, "--yv_path", dataset), split, frames=frames).clips
    if dataset == "mose":
        return open_layout("mose", _path(where.data, "--data_path", dataset), "valid" if split == "val" else split).clips
    if split is not None:
        raise UsageError(f"--split {split} with a generic folder of clips", fix="Leave out --split")
    return open_layout("folder", _path(where.data, "--data_path", dataset)).clips


def _path(path: Path | None, option: str, dataset: str) -> Path:
    if path is None:
        raise UsageError(f"data set {dataset} needs {option}", fix=f"Add {option} FOLDER")
    return path


def _only(clips: tuple[Clip, ...], path: Path) -> tuple[Clip, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise LayoutError(f"list of clips {path} cannot be read ({error})", fix="Check --video-set-filename") from error
    known = {clip.name: clip for clip in clips}
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise LayoutError(
            f"{path} lists {', '.join(unknown[:5]) or 'nothing'}", expected=f"clip names such as {min(known, default='')}"
        )
    return tuple(known[name] for name in dict.fromkeys(names))
