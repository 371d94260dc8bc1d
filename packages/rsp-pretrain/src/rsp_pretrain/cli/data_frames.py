"""`rsp-pretrain data frames`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.data_options import processes_option, run_step, step_options


@click.command("frames")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--short", type=click.IntRange(2), help="Shorter side in pixels [default: as it is].")
@click.option("--quality", type=click.IntRange(1, 95), default=90, show_default=True, help="JPEG quality.")
@processes_option("Videos")
@step_options
@click.pass_context
def command(context: click.Context, /, source: Path, output: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Write the frames of every video below SOURCE to OUTPUT/<video>/00000.jpg, for training without decoding video.

    SOURCE is Kinetics-400, a list of files or any folder of videos.

    Example: rsp-pretrain data frames /data/kinetics400 /data/kinetics400_frames --short 256 -n 8
    """
    from rsp_pretrain.kinetics.frames import extract_frames

    step = partial(extract_frames, source, output, dry_run=dry_run, **options)
    run_step(context, step, unit="video", dry_run=dry_run, as_json=as_json)
