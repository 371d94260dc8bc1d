"""`vos data lvos-convert`: masks that show each object in its first frame only."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("lvos-convert")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--output", default="Annotations_convert", show_default=True, help="Name of the folder beside Annotations.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(root: Path, output: str, processes: int, as_json: bool) -> None:
    """Write the masks of the LVOS split at ROOT so that each object shows only in the frame where it enters.

    ROOT holds `Annotations/<video>`, or a `valid` folder that does. A repeated command resumes.

    Example: vos data lvos-convert /data/LVOS/valid
    """
    from tqdm import tqdm

    from vos_core.data.convert import lvos_convert

    with tqdm(unit="video", disable=None) as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        done = lvos_convert(root, output=output, processes=processes, on_done=progress)
    if as_json:
        click.echo(json.dumps({"output": output, "written": done.written, "kept": done.kept}))
    else:
        click.echo(f"{output}: {done.written} masks written, {done.kept} were there or show nothing new")
