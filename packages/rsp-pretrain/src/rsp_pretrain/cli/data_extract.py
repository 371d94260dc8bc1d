"""`rsp-pretrain data extract`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from rsp_pretrain.cli.data_options import datadir_option, processes_option, run_step, step_options


@click.command("extract")
@datadir_option
@click.option("--delete", is_flag=True, help="Remove each archive once it is unpacked.")
@processes_option("Archives")
@step_options
@click.pass_context
def command(context: click.Context, /, datadir: Path, delete: bool, processes: int, dry_run: bool, as_json: bool) -> None:
    """Unpack the archives of Kinetics-400 to DATADIR/extracted; done archives are remembered.

    Example: rsp-pretrain data extract --datadir /data/kinetics400 --delete -n 4
    """
    from rsp_pretrain.kinetics.extract import extract

    step = partial(extract, datadir, delete=delete, processes=processes, dry_run=dry_run)
    run_step(context, step, unit="archive", dry_run=dry_run, as_json=as_json)
