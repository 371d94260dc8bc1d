"""`stcn-ttt eval`: the benchmarks, with the paths and rules of the original's evaluation scripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from stcn_ttt import METHOD
from stcn_ttt.cli.datasets import DATASETS, Places, only_listed, open_dataset, read_list, split_name
from stcn_ttt.cli.options import stcn_options, take_stcn_options
from vos_core.cli.options import device_options, json_option, method_options, output_options
from vos_core.cli.run import execute
from vos_core.errors import UsageError

_FOLDER = click.Path(path_type=Path)
TEST_DEV_MEM_EVERY = 3
"""The authors' test-dev numbers were made with this; at 5 they are lower."""


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

    places = Places(davis_path, yv_path, data_path, corrupted_image_dir)
    dataset = dataset or places.told_by()
    if req_frames and (dataset != "youtube" or output_all):
        raise UsageError("--req-frames leaves out frames that are not scored", expected="YouTube-VOS without --output-all")
    split = split_name(split)
    clips = open_dataset(dataset, places, split, listed_only=req_frames)
    if video_set_filename is not None:
        clips = only_listed(clips, read_list(video_set_filename), where=str(video_set_filename))
    if output_all:
        clips = tuple(replace(clip, outputs=None) for clip in clips)
    if dataset == "davis" and split == "test-dev" and options["mem_every"] is None:
        options["mem_every"] = TEST_DEV_MEM_EVERY
    chosen = take_stcn_options(options)
    if req_frames:
        chosen["assignments"] = ("clock=names", *chosen["assignments"])
    context.exit(execute(METHOD, opened=Selection(clips), **chosen))
