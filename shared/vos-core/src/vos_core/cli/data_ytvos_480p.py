"""`vos data ytvos-480p`: YouTube-VOS training data with a short side of 480."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command("ytvos-480p")
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", type=click.IntRange(min=1), default=480, show_default=True, help="Short side in pixels.")
@click.option("-n", "--processes", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that convert.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(root: Path, output: Path, size: int, processes: int, as_json: bool) -> None:
    """Write the YouTube-VOS split at ROOT to OUTPUT with the short side at 480: frames bicubic, masks nearest.

    Sides are int(side * 480 / short side); meta.json is copied. A repeated command resumes.

    Example: vos data ytvos-480p /data/YouTube/train /data/YouTube/train_480p -n 8
    """
    from tqdm import tqdm

    from vos_core.data.convert import ytvos_480p

    with tqdm(unit="folder", disable=None) as bar:

        def progress(count: int, total: int) -> None:
            bar.total = total
            bar.update(count - bar.n)

        done = ytvos_480p(root, output, size=size, processes=processes, on_done=progress)
    if as_json:
        click.echo(json.dumps({"output": str(output), "written": done.written, "kept": done.kept}))
    else:
        click.echo(f"{output}: {done.written} files written, {done.kept} were there")
