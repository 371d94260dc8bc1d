"""`rsp-pretrain data arrange`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import click

from rsp_pretrain.cli.data_options import datadir_option, run_step, step_options


@click.command("arrange")
@datadir_option
@click.option("--from", "source", type=click.Path(path_type=Path), help="Folder of videos [default: DATADIR/extracted].")
@click.option(
    "--mode", type=click.Choice(["move", "link", "copy"]), default="move", show_default=True, help="What to do with each file."
)
@step_options
@click.pass_context
def command(
    context: click.Context,
    /,
    datadir: Path,
    source: Path | None,
    mode: Literal["move", "link", "copy"],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Sort extracted videos into DATADIR/train/<class> by annotations/train.csv.

    Videos that the table does not name stay where they are; replacements get a folder of their own.

    Example: rsp-pretrain data arrange --datadir /data/kinetics400
    """
    from rsp_pretrain.kinetics.arrange import arrange

    step = partial(arrange, datadir, source=source, mode=mode, dry_run=dry_run)
    run_step(context, step, unit="video", dry_run=dry_run, as_json=as_json)
