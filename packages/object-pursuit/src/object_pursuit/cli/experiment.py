"""`object-pursuit experiment`: the method's claims, checked on a stream of drawn objects."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option, split_names
from vos_core.errors import InterruptError, UsageError


@click.command("experiment")
@click.option("-o", "--out", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the page and pieces.")
@click.option("--seeds", default="0,1", show_default=True, metavar="A,B", help="Each is a world, a network and a stream.")
@click.option("--tables", default="all", show_default=True, metavar="all|none|1,3", help="The paper's tables to make in small.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with the plan's values.")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set one value of the plan; repeatable.")
@click.option("--check", is_flag=True, help="Exit with 1 if a claim does not hold.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads for computing [default: the libraries' choice].")
@json_option
@click.pass_context
def command(
    context: click.Context,
    out: Path,
    seeds: str,
    tables: str,
    config_file: Path | None,
    assignments: tuple[str, ...],
    check: bool,
    threads: int | None,
    as_json: bool,
) -> None:
    """Pretrain on drawn objects, pursue a stream of new ones, and check what the method promises; write a page.

    Claims: bases grow more slowly than objects, objects met again are recognised, the memory term prevents forgetting, and
    without it much is forgotten. --tables none checks only these, in about a minute and a half of one CPU core per seed; all
    tables take about ten times that. A repeated command goes on where it stopped. Needs no data and no GPU.

    Example: object-pursuit experiment --out experiment --tables none --check
    """
    from object_pursuit.experiment.plan import TABLES, ExperimentPlan
    from object_pursuit.experiment.run import PAGE, run_experiment
    from vos_core.cli.printing import print_json
    from vos_core.cli.run import merge_options
    from vos_core.config import build_config
    from vos_core.run.device import apply_threads

    plan = build_config(ExperimentPlan, merge_options(config_file, assignments))
    chosen = {"all": TABLES, "none": ()}.get(tables) if tables in ("all", "none") else _numbers(tables, "--tables")
    apply_threads(threads)
    numbers = _numbers(seeds, "--seeds")
    try:
        results = run_experiment(out, plan, seeds=numbers, tables=chosen or (), tell=lambda text: click.echo(text, err=True))
    except KeyboardInterrupt:
        raise InterruptError(
            f"interrupted; what is finished is kept in {out}", fix="Run the same command again to go on"
        ) from None
    claims = [(result.seed, *claim) for result in results for claim in result.checks()]
    if as_json:
        rows = [{"seed": s, "claim": claim, "holds": holds, "figures": figures} for s, claim, holds, figures in claims]
        print_json({"page": str(out / PAGE), "claims": rows})
    else:
        for seed, claim, holds, figures in claims:
            click.echo(f"seed {seed}: {claim}: {'holds' if holds else 'DOES NOT HOLD'} ({figures})")
        click.echo(f"Page: {out / PAGE}")
    context.exit(1 if check and not all(holds for _, _, holds, _ in claims) else 0)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    parts = split_names(text)
    if not parts or not all(part.isdigit() for part in parts):
        raise UsageError(f"{option} {text}", expected="whole numbers separated by commas, such as 0,1")
    return tuple(int(part) for part in parts)
