"""`vos data ytvos-480p`: YouTube-VOS training data with a short side of 480."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.cli.progress import CountBar


@click.command("ytvos-480p")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", type=click.IntRange(min=1), default=480, show_default=True, help="Short side in pixels.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@json_option
def command(root: Path, output: Path, size: int, processes: int, as_json: bool) -> None:
    """Write the YouTube-VOS split at ROOT to OUTPUT with the short side at 480: frames bicubic, masks nearest.

    Sides are int(side * 480 / short side); meta.json is copied. A repeated command resumes.

    Example: vos data ytvos-480p /data/YouTube/train /data/YouTube/train_480p -n 8
    """
    from vos_core.data.convert import ytvos_480p

    with CountBar("folder") as bar:
        done = ytvos_480p(root, output, size=size, processes=processes, on_done=bar.reach)
    if as_json:
        print_json({"output": str(output), "written": done.written, "kept": done.kept})
    else:
        click.echo(f"{output}: {done.written} files written, {done.kept} were there")
