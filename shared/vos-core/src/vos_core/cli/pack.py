"""`vos pack`: check results and build a benchmark server's zip."""

from __future__ import annotations

import os
from pathlib import Path

import click

from vos_core.cli.options import json_option, processes_option
from vos_core.cli.printing import print_json, problems_json
from vos_core.cli.progress import CountBar

_DATASETS = (
    "davis", "youtube-vos-2018", "youtube-vos-2019", "mose-v1", "mose-v2", "lvos-v1", "lvos-v2", "vost", "sav",
)  # fmt: skip


@click.command("pack")
@click.argument("dataset", type=click.Choice(_DATASETS))
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("archive", metavar="ZIP", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--root", type=click.Path(path_type=Path, exists=True, file_okay=False), help="The data set, to check against.")
@click.option("--split", help="Split of the data set [default: the server's usual one].")
@processes_option
@json_option
def command(
    dataset: str, results: Path, archive: Path, root: Path | None, split: str | None, processes: int | None, as_json: bool
) -> None:
    """Check the masks in RESULTS and build the ZIP that the server of DATASET takes.

    Checks that every clip and frame is there, that masks are 8-bit palette PNGs of the frames' size, that ids are those of the
    data set and that no YouTube-VOS object is drawn before it enters. Lists every fault; with any, no zip is written. Servers
    read ids, not colours: the masks' colour table may be any.

    Example: vos pack davis out/davis-test-dev davis.zip --root DAVIS --split test-dev
    """
    from vos_core.data.pack import pack

    workers = processes or os.cpu_count() or 1
    with CountBar("clip") as bar:
        report = pack(
            dataset, results, archive, root=root, split=split, workers=workers, on_clip=lambda name, total: bar.advance(total)
        )
    if as_json:
        counts = {"clips": report.clips, "masks": report.masks, "left_out": report.left_out}
        archived = str(report.archive) if report.archive else None
        print_json({"archive": archived, **counts, "problems": problems_json(report.problems)})
    else:
        for problem in report.problems:
            click.echo(f"{problem.level}: {problem}", err=problem.level != "error")
        if report.archive is not None:
            left = f", {report.left_out} masks the server does not want were left out" if report.left_out else ""
            click.echo(f"{report.archive}: {report.masks} masks of {report.clips} clips{left}")
        else:
            click.echo("Nothing was written; mend the faults above and pack again.", err=True)
    if report.archive is None:
        raise click.exceptions.Exit(1)
