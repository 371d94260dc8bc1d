"""`rsp-pretrain data rescale`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.data_options import datadir_option, processes_option, run_step, slice_options, step_options
from vos_core.errors import UsageError

_PRESETS = ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]


@click.command("rescale")
@datadir_option
@slice_options("the classes to rescale, in name order")
@click.option("--short", type=click.IntRange(2), default=256, show_default=True, help="Shorter side in pixels, even.")
@click.option("--crf", type=click.IntRange(0, 51), default=23, show_default=True, help="x264's quality, smaller is better.")
@click.option("--preset", type=click.Choice(_PRESETS), default="medium", show_default=True, help="x264's effort.")
@click.option(
    "--keyint", type=click.IntRange(1), default=48, show_default=True, help="Frames between key frames; fewer are read faster."
)
@processes_option("Videos")
@step_options
@click.pass_context
def command(context: click.Context, /, datadir: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Write DATADIR/train2: every video of DATADIR/train with a short side of 256 pixels, without sound.

    Needs PyAV (extra rsp-pretrain[video]), not the ffmpeg program.

    Example: rsp-pretrain data rescale --datadir /data/kinetics400 --begin 0 --end 100 -n 8
    """
    from rsp_pretrain.kinetics.rescale import rescale

    if options["short"] % 2:
        raise UsageError(f"--short {options['short']}", expected="an even number: the video format has half as many colours")
    run_step(context, partial(rescale, datadir, dry_run=dry_run, **options), unit="video", dry_run=dry_run, as_json=as_json)
