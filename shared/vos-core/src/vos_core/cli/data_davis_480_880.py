"""`vos data davis-480-880`: DAVIS resized to one size by nearest neighbour."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.cli.progress import CountBar


@click.command("davis-480-880")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--height", type=click.IntRange(min=1), default=480, show_default=True, help="Pixels.")
@click.option("--width", type=click.IntRange(min=1), default=880, show_default=True, help="Pixels.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@click.option("--dry-run", "--dry_run", is_flag=True, help="Change nothing; say what would be done.")
@json_option
def command(root: Path, output: Path, height: int, width: int, processes: int, dry_run: bool, as_json: bool) -> None:
    """Write the DAVIS tree at ROOT to OUTPUT with frames and masks resized by nearest neighbour, JPEG quality 75.

    Names, palettes and ImageSets are kept. Scores on the copy are those of 880x480 masks. A repeated command resumes.

    Example: vos data davis-480-880 /data/DAVIS /data/DAVIS_480_880 -n 8
    """
    from vos_core.data.convert import davis_480_880

    with CountBar("folder") as bar:
        done = davis_480_880(root, output, height=height, width=width, processes=processes, dry_run=dry_run, on_done=bar.reach)
    if as_json:
        print_json({"output": str(output), "planned" if dry_run else "written": done.written, "kept": done.kept})
    else:
        click.echo(f"{output}: {done.written} files {'to write' if dry_run else 'written'}, {done.kept} were there")
