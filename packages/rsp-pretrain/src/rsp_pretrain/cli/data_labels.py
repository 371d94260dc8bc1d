"""`rsp-pretrain data labels`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import click

from rsp_pretrain.cli.data_options import datadir_option, processes_option, run_step, step_options


@click.command("labels")
@datadir_option
@click.option(
    "--filedir", "folder", type=click.Choice(["train2", "train"]), default="train2", show_default=True, help="Which videos."
)
@click.option(
    "--decode",
    type=click.Choice(["full", "ends"]),
    default="full",
    show_default=True,
    help="Decode every frame, or the first and last only: faster, and blind to damage in between.",
)
@click.option("--min-frames", type=click.IntRange(1), default=2, show_default=True, help="Leave shorter videos out.")
@processes_option("Videos")
@step_options
@click.pass_context
def command(
    context: click.Context,
    /,
    datadir: Path,
    folder: Literal["train2", "train"],
    decode: Literal["full", "ends"],
    min_frames: int,
    processes: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Decode every video and write DATADIR/labels/label_full_1.0.pickle with those that are whole.

    Leaves with 1 if some were left out; they are named here and in labels/checked.jsonl.

    Example: rsp-pretrain data labels --datadir /data/kinetics400 -n 8
    """
    from rsp_pretrain.kinetics.labels import make_labels

    step = partial(
        make_labels, datadir, folder=folder, decode=decode, min_frames=min_frames, processes=processes, dry_run=dry_run
    )
    run_step(context, step, unit="video", dry_run=dry_run, as_json=as_json)
