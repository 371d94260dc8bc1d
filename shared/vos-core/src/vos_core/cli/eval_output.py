"""What `vos eval` prints and writes: a table or JSON on stdout, warnings and progress on stderr, files in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vos_core.cli.printing import counted, print_json
from vos_core.cli.progress import CountBar

if TYPE_CHECKING:
    from vos_core.metrics.evaluate import Evaluation
    from vos_core.metrics.scores import ScoringProtocol
    from vos_core.metrics.source import VideoJob


class Output:
    """Where results go.

    Args:
        common: values of the options that all commands share: `output`, `as_json`, `reuse`.
        default: folder of the results, where the official tools write.
        kinds: which files: `csv` (the official tables), `json` (results.json), `txt` (the DAVIS server's scores.txt).
    """

    def __init__(self, common: Mapping[str, Any], *, default: Path, kinds: tuple[str, ...] = ("csv", "json")) -> None:
        self.folder: Path = common["output"] or default
        self.as_json: bool = common["as_json"]
        self.reuse: bool = common["reuse"]
        self.kinds = kinds


def run(
    protocol: ScoringProtocol,
    jobs: Sequence[VideoJob],
    output: Output,
    *,
    processes: int | None,
    warnings: Sequence[str] = (),
) -> None:
    """Score the videos, write the files and print the result."""
    from vos_core.metrics.evaluate import RESULTS, evaluate_videos, write_results

    reuse = output.folder / RESULTS if output.reuse else None
    with CountBar("video", total=len(jobs)) as bar:
        evaluation = evaluate_videos(protocol, jobs, processes=processes, progress=lambda video: bar.advance(), reuse=reuse)
    for warning in (*warnings, *evaluation.warnings):
        click.echo(f"Warning: {warning}.", err=True)
    tables = list(evaluation.tables) if "csv" in output.kinds else []
    paths = write_results(evaluation, output.folder, tables=tables, record="json" in output.kinds)
    if "txt" in output.kinds:
        from vos_core.io.atomic import write_text
        from vos_core.metrics.davis import server_scores_text

        paths.append(output.folder / "scores.txt")
        write_text(paths[-1], server_scores_text(evaluation.scores))
    if output.as_json:
        print_json(_summary(evaluation, paths))
        return
    click.echo(text_table(evaluation))
    click.echo("Written: " + ", ".join(str(path) for path in paths), err=True)


def text_table(evaluation: Evaluation) -> str:
    """Return the dataset's values and one line per object, in percent."""
    columns = list(evaluation.object_scores[0]) if evaluation.object_scores else []
    names = [f"{item.video} {item.object_id}" for item, _ in evaluation.rows()]
    width = max([len("object"), *map(len, names)])
    lines = [
        f"{evaluation.protocol}, percent, mean over {counted(len(names), 'object')} of {counted(len(evaluation.videos), 'video')}"
    ]
    lines += [f"  {key:<18}{_percent(value)}" for key, value in evaluation.scores.items()]
    if names:
        lines += ["", " ".join([f"{'object':<{width}}", *(f"{column:>12}" for column in columns)])]
        for name, (_, row) in zip(names, evaluation.rows(), strict=True):
            lines.append(" ".join([f"{name:<{width}}", *(f"{_percent(row[column]):>12}" for column in columns)]))
    return "\n".join(lines)


def _percent(value: float) -> str:
    return f"{'-':>6}" if math.isnan(value) else f"{100 * value:6.1f}"


def _summary(evaluation: Evaluation, paths: Sequence[Path]) -> dict[str, Any]:
    record = evaluation.record()
    kept = {key: record[key] for key in ("protocol", "options", "scores", "warnings")}
    objects = [{key: item[key] for key in ("video", "object", "row", "scores")} for item in record["objects"]]
    return {**kept, "objects": objects, "files": [str(path) for path in paths]}
