"""`vos data check`: list what is missing or malformed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from vos_core.cli.options import json_option, processes_option
from vos_core.cli.printing import counted, print_json, problems_json
from vos_core.cli.progress import CountBar
from vos_core.config import parse_assignments
from vos_core.data.layout import LAYOUTS


@click.command("check")
@click.argument("layout", type=click.Choice(("auto", *sorted(LAYOUTS))))
@click.argument("root", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--split", help="Split in the layout's own words [default: the evaluation split].")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE",
    help="Option of the layout, such as year=2016, resolution=Full-Resolution or version=2; repeat for more.",
)  # fmt: skip
@click.option("--fast", is_flag=True, help="Do not decode images and masks; look at names, lists and headers.")
@processes_option
@json_option
def command(
    layout: str, root: Path, split: str | None, assignments: tuple[str, ...], fast: bool, processes: int | None, as_json: bool
) -> None:
    """List every fault of the data set at ROOT with a fix: missing frames, masks and lists, damaged files, odd sizes and ids.

    LAYOUT `auto` finds out which layout it is. Exit code 0: no fault (warnings and notes do not count), 1: faults.

    Example: vos data check youtube-vos /data/YTB --split valid --set year=2019
    """
    from vos_core.data.check import check
    from vos_core.data.layout import detect_layout

    layout = detect_layout(root) if layout == "auto" else layout
    depth: Any = "fast" if fast else "full"
    with CountBar("clip") as bar:
        problems = check(
            layout,
            root,
            split,
            depth=depth,
            workers=processes or os.cpu_count() or 1,
            on_clip=lambda name, total: bar.advance(total),
            **parse_assignments(assignments),
        )
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        print_json({"layout": layout, "root": str(root), "errors": errors, "problems": problems_json(problems)})
    else:
        for problem in problems:
            click.echo(f"{problem.level}: {problem}")
        click.echo(f"{layout} at {root}: {counted(errors, 'fault')}, {counted(len(problems) - errors, 'remark')}", err=True)
    if errors:
        raise click.exceptions.Exit(1)
