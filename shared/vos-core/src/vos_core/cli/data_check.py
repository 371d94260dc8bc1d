"""`vos data check`: list what is missing or malformed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from vos_core.data.layout import LAYOUTS


@click.command("check")
@click.argument("layout", type=click.Choice(("auto", *sorted(LAYOUTS))))
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", help="Split in the layout's own words.  [default: the evaluation split]")
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE",
    help="Option of the layout, such as year=2016, resolution=Full-Resolution or version=2; repeat for more.",
)  # fmt: skip
@click.option("--fast", is_flag=True, help="Do not decode images and masks; look at names, lists and headers.")
@click.option("-n", "--workers", type=click.IntRange(min=1), default=None, help="Threads that decode.  [default: CPU count]")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
def command(
    layout: str, root: Path, split: str | None, pairs: tuple[str, ...], fast: bool, workers: int | None, as_json: bool
) -> None:
    """List every fault of the data set at ROOT with a fix: missing frames, masks and lists, damaged files, odd sizes and ids.

    LAYOUT `auto` finds out which layout it is. Exit code 0: no fault (warnings and notes do not count), 1: faults.

    Example: vos data check youtube-vos /data/YTB --split valid --set year=2019
    """
    from tqdm import tqdm

    from vos_core.data.check import check
    from vos_core.data.layout import detect_layout

    layout = detect_layout(root) if layout == "auto" else layout
    with tqdm(unit="clip", disable=None) as bar:

        def progress(name: str, total: int) -> None:
            bar.total = total
            bar.update()

        problems = check(
            layout, root, split, depth="fast" if fast else "full", workers=workers or os.cpu_count() or 1, on_clip=progress,
            **parse_options(pairs),
        )  # fmt: skip
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        listed = [{"path": str(p.path), "found": p.found, "fix": p.fix, "level": p.level} for p in problems]
        click.echo(json.dumps({"layout": layout, "root": str(root), "errors": errors, "problems": listed}))
    else:
        for problem in problems:
            click.echo(f"{problem.level}: {problem}")
        click.echo(f"{layout} at {root}: {errors} faults, {len(problems) - errors} warnings and notes", err=True)
    if errors:
        raise click.exceptions.Exit(1)


def parse_options(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return `KEY=VALUE` texts as keyword arguments, whole numbers as int.

    Raises:
        UsageError: a text without `=`.
    """
    from vos_core.errors import UsageError

    options: dict[str, Any] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise UsageError(f"--set {pair}", expected="KEY=VALUE, for example year=2016")
        options[key] = int(value) if value.isdigit() else value
    return options
