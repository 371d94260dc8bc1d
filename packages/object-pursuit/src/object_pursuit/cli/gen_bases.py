"""`object-pursuit gen-bases`: base files from a joint checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option


@click.command("gen-bases")
@click.argument("weights", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--codes-only", is_flag=True, help="Leave out the weights that each code generates (22 MB for each).")
@json_option
def command(weights: Path, out: Path, codes_only: bool, as_json: bool) -> None:
    """Write one base_NNNN.pth per object of the joint checkpoint WEIGHTS to OUT: its code and the weights it generates.

    Files that are there already are kept. pursue makes its bases from a joint checkpoint by itself; this is for looking at them,
    and for choosing among them.

    Example: object-pursuit gen-bases multinet_vos_davis.pth Bases
    """
    from object_pursuit.bases_file import write_bases
    from vos_core.cli.printing import print_json

    files = write_bases(weights, out, codes_only=codes_only)
    if as_json:
        print_json({"files": [str(file) for file in files]})
    else:
        click.echo(f"{len(files)} bases in {out}")
