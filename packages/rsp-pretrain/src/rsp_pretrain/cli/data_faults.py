"""Faults of a data set, printed before a probe is run on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

import click

from vos_core.cli.printing import print_json, problems_json
from vos_core.cli.progress import CountBar

if TYPE_CHECKING:
    from vos_core.data.check import ClipCheck
    from vos_core.data.layout import VideoSet


def print_faults(context: click.Context, found: VideoSet, *, as_json: bool, extra: ClipCheck | None = None) -> NoReturn:
    """Print every fault of a data set with its fix and leave: 0 without faults, 1 with; `extra` as in `check_clips`."""
    from vos_core.data.check import check_clips

    workers = os.cpu_count() or 1
    with CountBar("clip") as bar:
        inside = check_clips(found, depth="full", workers=workers, on_clip=lambda name, total: bar.advance(total), extra=extra)
    problems = [*found.problems, *inside]
    errors = sum(problem.level == "error" for problem in problems)
    if as_json:
        print_json({"layout": found.layout, "root": str(found.root), "errors": errors, "problems": problems_json(problems)})
    else:
        for problem in problems:
            click.echo(f"{problem.level}: {problem}")
        click.echo(f"{found.layout} at {found.root}: {errors} faults", err=True)
    context.exit(1 if errors else 0)
