"""`vos data lvos-convert`: masks that show each object in its first frame only."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.cli.progress import CountBar


@click.command("lvos-convert")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output", default="Annotations_convert", show_default=True, help="Name of the folder beside Annotations.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@json_option
def command(root: Path, output: str, processes: int, as_json: bool) -> None:
    """Write the masks of the LVOS split at ROOT so that each object shows only in the frame where it enters.

    ROOT holds `Annotations/<video>`, or a `valid` folder that does. A repeated command resumes.

    Example: vos data lvos-convert /data/LVOS/valid
    """
    from vos_core.data.convert import lvos_convert

    with CountBar("video") as bar:
        done = lvos_convert(root, output=output, processes=processes, on_done=bar.reach)
    if as_json:
        print_json({"output": output, "written": done.written, "kept": done.kept})
    else:
        click.echo(f"{output}: {done.written} masks written, {done.kept} were there or show nothing new")
