"""`object-pursuit inspect`: what a file or folder of the method holds."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def command(path: Path, as_json: bool) -> None:
    """Describe PATH: a joint or one-shot checkpoint, a hypernetwork, an encoder, a code, a folder of codes, or a pursuit.

    Example: object-pursuit inspect run
    """
    from object_pursuit.inspection import describe
    from vos_core.cli.printing import print_json

    found = describe(path)
    if as_json:
        print_json(found)
        return
    width = max(map(len, found))
    click.echo("\n".join(f"{name:{width}}  {value}" for name, value in found.items()))
