"""`vos data davis-480-880`: DAVIS resized to one size by nearest neighbour."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("davis-480-880")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--height", type=click.IntRange(min=1), default=480, show_default=True, help="Pixels.")
@click.option("--width", type=click.IntRange(min=1), default=880, show_default=True, help="Pixels.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(root: Path, output: Path, height: int, width: int, processes: int, as_json: bool) -> None:
    """Write the DAVIS tree at ROOT to OUTPUT with frames and masks resized by nearest neighbour, JPEG quality 75.

    Names, palettes and ImageSets are kept. Scores on the copy are those of 880x480 masks. A repeated command resumes.

    Example: vos data davis-480-880 /data/DAVIS /data/DAVIS_480_880 -n 8
    """
    from tqdm import tqdm

    from vos_core.data.convert import davis_480_880

    with tqdm(unit="folder", disable=None) as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        done = davis_480_880(root, output, height=height, width=width, processes=processes, on_done=progress)
    if as_json:
        click.echo(json.dumps({"output": str(output), "written": done.written, "kept": done.kept}))
    else:
        click.echo(f"{output}: {done.written} files written, {done.kept} were there")
