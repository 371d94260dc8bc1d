"""`sam2-rcms score`: the MOSEv2 metrics of vos-core, with the original's option names."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option, processes_option

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command("score")
@click.option(
    "--meta",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    required=True,
    help='Videos to score, as in MOSEv2: {"videos": {name: {"length", "objects"}}}.',
)
@click.option("--ann", type=_FOLDER, required=True, help="Annotations: one sub-folder of PNG masks per video.")
@click.option("--pred", type=_FOLDER, required=True, help="Results, or a folder that holds only the results' folder.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for metrics.json and scores.txt.")
@click.option(
    "--missing",
    type=click.Choice(["error", "empty"]),
    default="error",
    show_default=True,
    help="What an absent video or mask is: a mistake, or a score of 0 as in the original.",
)
@click.option("--reuse/--no-reuse", default=False, help="Take stored scores if neither masks nor options changed.")
@click.option("--debug", is_flag=True, help="Score one video after the other in this process.")
@processes_option
@json_option
def command(
    meta: Path,
    ann: Path,
    pred: Path,
    output: Path,
    missing: str,
    reuse: bool,
    debug: bool,
    processes: int | None,
    as_json: bool,
) -> None:
    """Score masks with the MOSEv2 metrics: J, adaptive F, disappearance and reappearance. The same as vos eval mosev2.

    Example: sam2-rcms score --meta meta.json --ann Annotations --pred out --output scores
    """
    from vos_core.cli.eval_output import Output, run
    from vos_core.data.listing import read_meta
    from vos_core.metrics.mosev2 import MoseV2Protocol, mosev2_jobs

    jobs = mosev2_jobs(read_meta(meta), ann, pred)
    target = Output({"output": output, "as_json": as_json, "reuse": reuse}, default=pred)
    protocol = MoseV2Protocol(missing="empty" if missing == "empty" else "error")
    run(protocol, jobs, target, processes=1 if debug else processes)
