"""`rsp-pretrain data download`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.data_options import datadir_option, processes_option, run_step, slice_options, step_options

_SOURCE = "https://s3.amazonaws.com/kinetics/400"


@click.command("download")
@datadir_option
@click.option("--source", default=_SOURCE, show_default=True, metavar="URL", help="Address of the data, or of a mirror.")
@slice_options("the archives to fetch")
@processes_option("Downloads")
@step_options
@click.pass_context
def command(context: click.Context, /, datadir: Path, as_json: bool, dry_run: bool, **options: Any) -> None:
    """Download Kinetics-400: train archives, replacements for corrupted videos, annotations. A torn download goes on.

    Example: rsp-pretrain data download --datadir /data/kinetics400 -n 4
    """
    from functools import partial

    from rsp_pretrain.kinetics.download import download

    run_step(context, partial(download, datadir, dry_run=dry_run, **options), unit="file", dry_run=dry_run, as_json=as_json)
