"""`vos report`: the page for runs that already exist."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from vos_core.cli.clips import select_clips
from vos_core.cli.options import clip_options, json_option
from vos_core.cli.printing import print_json
from vos_core.types import RunRecord


@click.command("report")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...", type=click.Path(path_type=Path))
@clip_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The HTML file to write.")
@click.option("--title", help="Heading of the page [default: the record's, or 'Video object segmentation runs'].")
@json_option
def command(runs: tuple[Path, ...], output: Path, title: str | None, as_json: bool, **clip_choice: Any) -> None:
    """Write one HTML page for RUN...: the --output folders of earlier runs, or the record.json of a comparison.

    With --clips (or --layout, --video) the runs are scored and the page shows pictures; without, it shows costs and
    whatever scores the records hold.

    Example: vos report out/copy out/flow --clips clips --output page.html
    """
    from vos_core.report.compare import comparison_record, comparison_rows, read_comparison, text_table
    from vos_core.report.page import TITLE, write_page
    from vos_core.report.scoring import score_run
    from vos_core.run.record import read_run, read_run_data

    records: list[RunRecord] = []
    about: dict[str, Any] = {}
    for path in runs:
        if "runs" in read_run_data(path):
            found = read_comparison(path)
            records += found.records
            title, about = title or found.title, {**about, **found.about}
        else:
            # A moved run folder still knows its old place: the masks are where the record is.
            records.append(replace(read_run(path), output=str(path if path.is_dir() else path.parent)))
    title = title or TITLE
    clips = select_clips(**clip_choice).clips if any(clip_choice.values()) else ()
    if clips:
        names = {clip.name for clip in clips}
        records = [replace(record, clips=tuple(c for c in record.clips if c.name in names)) for record in records]
        records = [score_run(record, clips) for record in records]
    write_page(records, output, title=title, clips=clips, about=about)
    rows = comparison_rows(records)
    if as_json:
        print_json(comparison_record(records, title=title))
    else:
        click.echo(text_table(rows))
    click.echo(f"Page: {output}", err=True)
