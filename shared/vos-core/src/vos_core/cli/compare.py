"""`vos compare`: several methods over the same clips, one table, one record, one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from vos_core.cli.clips import select_clips
from vos_core.cli.options import clip_options, device_options, json_option
from vos_core.cli.printing import counted, print_json, print_outcomes
from vos_core.config import parse_assignments
from vos_core.errors import UsageError


@click.command("compare")
@click.option("-m", "--methods", metavar="A,B", help="Installed methods, each NAME or NAME:VARIANT [default: all].")
@clip_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for masks, record.json and page.html."
)
@click.option(
    "--weights", "weights", multiple=True, metavar="METHOD=NAME|FILE|random", help="Checkpoint of one method; repeatable."
)
@click.option("--set", "assignments", multiple=True, metavar="METHOD.KEY=VALUE", help="Set one option of one method; repeatable.")
@click.option(
    "--untrained", is_flag=True, help="Run methods whose weights are not on this machine with random ones; never download."
)
@click.option("--resume/--no-resume", default=True, show_default=True, help="Keep clips that are done, or run all again.")
@click.option("--overwrite", is_flag=True, help="Replace masks in --output that other settings made.")
@click.option("--title", default="Comparison of methods", show_default=True, help="Heading of the page.")
@device_options
@json_option
def command(
    methods: str | None,
    output: Path,
    weights: tuple[str, ...],
    assignments: tuple[str, ...],
    untrained: bool,
    resume: bool,
    overwrite: bool,
    title: str,
    device: str,
    precision: Any,
    threads: int | None,
    seed: int,
    as_json: bool,
    **clip_choice: Any,
) -> None:
    """Run several methods over the same clips; print one table, write record.json and page.html.

    Each method runs in a process of its own, so that memory is its own. Clips with ground truth are scored after the mask that
    prompted (fully annotated ones as DAVIS does, without the last frame); others show '-'. Clips without any mask are skipped
    unless --only names them. A repeated command resumes. Exit code 0: all other clips done, 1: some failed, 2: wrong use.

    Example: vos compare --methods copy,flow --clips clips --output out
    """
    from vos_core.cli.compare_run import compare, parse_methods
    from vos_core.report.compare import comparison_record, comparison_rows, text_table

    selection = select_clips(**clip_choice)
    chosen = selection.clips
    specs = parse_methods(methods, weights=pairs(weights, option="--weights"), options=grouped(assignments))
    records = compare(
        specs,
        chosen,
        output=output,
        title=title,
        missing_weights="random" if untrained else "download",
        device=device,
        precision=precision,
        threads=threads,
        seed=seed,
        resume=resume,
        overwrite=overwrite,
        without_mask=selection.without_mask,
        on_method=lambda name: click.echo(f"Running {name} over {counted(len(chosen), 'clip')}", err=True),
    )
    rows = comparison_rows(records)
    if as_json:
        print_json(comparison_record(records, title=title))
    else:
        click.echo(text_table(rows))
    print_outcomes(records, selection.faults)
    click.echo(f"Page: {output / 'page.html'}", err=True)
    click.get_current_context().exit(1 if selection.faults or any(row.clips_failed for row in rows) else 0)


def pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """Return method -> value from `METHOD=VALUE` texts.

    Raises:
        UsageError: a text of another form, or a method given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        method, separator, value = text.partition("=")
        if not (separator and method and value):
            raise UsageError(f"{option} {text}", expected=f"METHOD=VALUE, for example {option} stcn-ttt=random")
        if method in found:
            raise UsageError(f"{option} was given twice for {method}", expected="one value for each method")
        found[method] = value
    return found


def grouped(assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return method -> options from `METHOD.KEY=VALUE` texts.

    Raises:
        UsageError: a text without a method.
    """
    found: dict[str, dict[str, Any]] = {}
    for method, options in parse_assignments(assignments).items():
        if not isinstance(options, dict):
            raise UsageError(
                f"--set {method}={options} names no method", expected="METHOD.KEY=VALUE, for example stcn-ttt.top=20"
            )
        found[method] = options
    return found
