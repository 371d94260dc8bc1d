"""What the steps of `rsp-pretrain data` share: options, the progress bar, and the report of what became of a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.cli.progress import CountBar
from vos_core.errors import InterruptError

if TYPE_CHECKING:
    from rsp_pretrain.kinetics.jobs import Outcome

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 20  # lines of a plan or of failures; --json gives all


class Step(Protocol):
    """A step that tells how far it is."""

    def __call__(self, *, on_done: Callable[[int, int], object]) -> Outcome:
        """Run the step; `on_done` is called with (things ended, things in all)."""
        ...


def step_options(function: F) -> F:
    """Add `--dry-run` and `--json`."""
    dry = click.option("--dry-run", "--dry_run", is_flag=True, help="Change nothing; say what would be done.")
    return dry(json_option(function))


def datadir_option(function: F) -> F:
    """Add `--datadir`."""
    return click.option(
        "--datadir",
        "--data_root",
        "--data-root",
        type=click.Path(path_type=Path),
        default=Path("/data/kinetics400"),
        show_default=True,
        help="Folder of Kinetics-400.",
    )(function)


def processes_option(unit: str) -> Callable[[F], F]:
    """Return the decorator that adds `--processes`, `unit` at a time."""
    return click.option("-n", "--processes", type=click.IntRange(1), default=1, show_default=True, help=f"{unit} at a time.")


def slice_options(what: str) -> Callable[[F], F]:
    """Return the decorator that adds `--begin` and `--end` over `what`."""

    def decorate(function: F) -> F:
        last = click.option("--end", type=click.IntRange(0), help=f"One behind the last of {what} [default: all].")
        first = click.option("--begin", type=click.IntRange(0), default=0, show_default=True, help=f"First of {what}.")
        return first(last(function))

    return decorate


def run_step(context: click.Context, step: Step, *, unit: str, dry_run: bool, as_json: bool) -> None:
    """Run a step with a bar of `unit`s, print what became of it and leave with 1 if something failed."""
    try:
        with CountBar(unit) as bar:
            outcome = step(on_done=bar.reach)
    except KeyboardInterrupt as error:
        raise InterruptError("interrupted; what is finished stays", fix="Run the same command again to go on") from error
    if as_json:
        print_json(_as_json(outcome, dry_run=dry_run))
    elif dry_run:
        _shorten(outcome.planned, err=False)
        click.echo(f"{len(outcome.planned)} {unit}(s) to do, {outcome.kept} done before")
    else:
        click.echo(f"{outcome.written} {unit}(s) done, {outcome.kept} done before, {len(outcome.failed)} failed")
        for name, value in outcome.notes.items():
            if isinstance(value, (str, int)):
                click.echo(f"{name}: {value}")
    _shorten([f"Failed: {why if name in why else f'{name}: {why}'}" for name, why in outcome.failed], err=True)
    context.exit(1 if outcome.failed else 0)


def _as_json(outcome: Outcome, *, dry_run: bool) -> dict[str, Any]:
    failed = [{"path": name, "error": why} for name, why in outcome.failed]
    counts = {"planned": outcome.planned} if dry_run else {"written": outcome.written, "failed": failed}
    return {**counts, "kept": outcome.kept, **outcome.notes}


def _shorten(lines: list[str], *, err: bool) -> None:
    for line in lines[:_SHOWN]:
        click.echo(line, err=err)
    if len(lines) > _SHOWN:
        click.echo(f"... and {len(lines) - _SHOWN} more", err=err)
