"""`sam2-rcms pack`: vos-core's checked submission zip, for MOSEv2 unless told otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vos_core.cli.options import json_option, processes_option
from vos_core.cli.pack import command as vos_pack

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
_DATASETS = next(parameter.type for parameter in vos_pack.params if parameter.name == "dataset")


@click.command("pack")
@click.argument("results", type=_FOLDER)
@click.argument("archive", metavar="ZIP", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--dataset", type=_DATASETS, default="mose-v2", show_default=True, help="Whose server the zip is for.")
@click.option("--root", type=_FOLDER, help="The data set, to check clips, frames, sizes and ids against.")
@click.option("--split", help="Split of the data set [default: the server's usual one].")
@processes_option
@json_option
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Check the masks in RESULTS and build the ZIP for the evaluation server; with any fault nothing is written.

    MOSEv2's server (codabench, competition 10062) takes the clips' folders at the root of the zip and reads the ids in the masks,
    not colours: their colour table may be any. The same as vos pack.

    Example: sam2-rcms pack out submission.zip --root MOSEv2
    """
    context.invoke(vos_pack, **options)
