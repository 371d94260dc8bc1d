"""`rmem-deaot bench`: segment a benchmark as published, score it, and show the published numbers beside ours."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click

from rmem_deaot import METHOD
from rmem_deaot.cli.options import rmem_options, take_rmem_options
from rmem_deaot.presets import PRESETS, open_preset
from rmem_deaot.published import published_row
from vos_core.cli.clips import Selection
from vos_core.cli.options import device_options, json_option, method_options, ops_option, output_options
from vos_core.cli.run import execute

_FOLDER = click.Path(path_type=Path)
BENCHMARKS = ("davis2017", "davis2016", "vost")


@click.command("bench")
@click.argument("benchmark", type=click.Choice(BENCHMARKS))
@click.option("--data-root", "--data_root", "--davis_path", type=_FOLDER, required=True, help="Folder of the data set.")
@click.option("--split", default="val", show_default=True, help="Split with annotations.")
@rmem_options
@output_options
@method_options
@device_options
@ops_option
@json_option
@click.pass_context
def command(context: click.Context, /, benchmark: str, data_root: Path, split: str, **options: Any) -> None:
    """Segment a benchmark with its published settings and score it by its own rules, in one go.

    A repeated command resumes. Scores go to stdout and to results.json beside the masks; no score without every clip.

    Example: rmem-deaot bench davis2017 --data-root DAVIS --output out
    """
    as_json = options["as_json"]
    chosen = take_rmem_options({**options, "as_json": False}, preset=dict(PRESETS[benchmark].options))
    clips = Selection(open_preset(benchmark, data_root, split))
    with redirect_stdout(sys.stderr):  # results are the scores
        code = execute(METHOD, opened=clips, **chosen)
    if code:
        click.echo("Not scored: the clips above have no masks. Mend them and run the same command again.", err=True)
        context.exit(code)
    _score(benchmark, data_root, chosen["output"], split, as_json=as_json)
    row = published_row(benchmark, _weights_name(chosen["output"]))
    if row:
        click.echo(f"Published for these weights, in percent: {row}", err=True)


def _score(benchmark: str, root: Path, masks: Path, split: str, *, as_json: bool) -> None:
    from vos_core.cli.eval_output import Output, run
    from vos_core.metrics.davis import DavisSemi
    from vos_core.metrics.roots import davis_jobs, vost_jobs
    from vos_core.metrics.transform import VostProtocol

    output = Output({"output": None, "as_json": as_json, "reuse": False}, default=masks)
    if benchmark == "vost":
        run(VostProtocol(split), vost_jobs(root, masks, split=split), output, processes=None)
        return
    year = int(benchmark[-4:])
    jobs, warnings = davis_jobs(root, masks, split=split, year=year)
    run(DavisSemi(split, binary=year == 2016), jobs, output, processes=None, warnings=warnings)


def _weights_name(masks: Path) -> str | None:
    """Return the registered name of the weights that made the masks, else the stem of their file."""
    from vos_core.run.record import read_run

    name = read_run(masks).weights["name"]
    return Path(name).stem if name else None
