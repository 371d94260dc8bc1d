"""Faults of a data set, printed before a probe is run on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import click

from vos_core.cli.printing import print_json, problems_json
from vos_core.cli.progress import CountBar


def print_faults(context: click.Context, layout: str, root: Path, split: str, *, as_json: bool, **options: Any) -> NoReturn:
    """Print every fault of a data set with its fix and leave: 0 without faults, 1 with."""
    from vos_core.data.check import check

    with CountBar("clip") as bar:
        problems = check(
            layout, root, split, workers=os.cpu_count() or 1, on_clip=lambda name, total: bar.advance(total), **options
        )
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        print_json({"layout": layout, "root": str(root), "errors": errors, "problems": problems_json(problems)})
    else:
        for problem in problems:
            click.echo(f"{problem.level}: {problem}")
        click.echo(f"{layout} at {root}: {errors} faults", err=True)
    context.exit(1 if errors else 0)
