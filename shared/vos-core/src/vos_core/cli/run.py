"""`vos run`, and `execute`, which every method's own command line calls as well."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from vos_core.cli.clips import Selection, select_clips
from vos_core.cli.options import parse_scales, run_options
from vos_core.cli.printing import print_json, print_outcomes
from vos_core.config import merge, parse_assignments, read_yaml
from vos_core.contract import MethodInfo
from vos_core.types import ClipRecord, RunRecord


@click.command("run")
@click.option("-m", "--method", required=True, metavar="NAME", help="Installed method; see: vos methods.")
@run_options
@click.pass_context
def command(context: click.Context, /, method: str, **options: Any) -> None:
    """Follow objects through clips with one method; write a mask per frame and run.json.

    A repeated command resumes: clips that are done are kept. Clips without any mask are skipped unless --only names them. Exit
    code 0: all other clips done, 1: some failed, 2: wrong use.

    Example: vos run --method flow --video clip.mp4 --mask first.png --output out
    """
    from vos_core.contract import get_method

    context.exit(execute(get_method(method), **options))


def execute(
    method: MethodInfo,
    *,
    output: Path,
    clips: Path | None = None,
    layout: str | None = None,
    root: Path | None = None,
    split: str | None = None,
    video: Path | None = None,
    mask: Path | None = None,
    only: str | None = None,
    variant: str | None = None,
    weights: str = "auto",
    config_file: Path | None = None,
    assignments: Sequence[str] = (),
    device: str = "auto",
    precision: Any = "fp32",
    threads: int | None = None,
    ops: str | None = None,
    seed: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    processes: int = 1,
    scheduler: Any = "local",
    overlay: Any = None,
    soft: Path | None = None,
    palette: Any = "davis",
    object_masks: bool = False,
    flip: bool = False,
    scales: str | None = None,
    as_json: bool = False,
    opened: Selection | None = None,
) -> int:
    """Run `method` as the options of `run_options` say; print the table (or JSON) on stdout; return the exit code.

    Progress goes to stderr. Method options are those of `config_file` with `assignments` on top. A command that finds its clips
    by options of its own passes them as `opened`.

    Raises:
        VosError: wrong use, no weights, an output that cannot be written, or an interrupt.
    """
    from vos_core.cli.progress import ProgressBar
    from vos_core.run.runner import run_method
    from vos_core.run.tta import Augmentation

    chosen = opened
    if chosen is None:
        chosen = select_clips(clips=clips, layout=layout, root=root, split=split, video=video, mask=mask, only=only)
    factors = parse_scales(scales)
    choose_ops(ops)
    with ProgressBar(chosen.clips) as bar:
        record = run_method(
            method,
            chosen.clips,
            output=output,
            weights=weights,
            variant=variant,
            options=merge_options(config_file, assignments),
            device=device,
            precision=precision,
            threads=threads,
            seed=seed,
            resume=resume,
            overwrite=overwrite,
            processes=processes,
            scheduler=scheduler,
            augmentation=Augmentation(flip=flip, scales=factors) if flip or factors != (1.0,) else None,
            overlay=overlay,
            soft=soft,
            palette=palette,
            object_masks=object_masks,
            without_mask=chosen.without_mask,
            on_progress=bar.update,
        )
    if as_json:
        print_json(asdict(record))
    else:
        click.echo(format_table(record))
    if not record.weights["trained"]:
        click.echo("Untrained weights (--weights random): these masks test the machinery and are no result.", err=True)
    print_outcomes([record], chosen.faults)
    failed = [clip.name for clip in record.clips if clip.status == "failed"]
    if failed:
        click.echo(f"{len(failed)} of {len(record.clips)} clips failed: {', '.join(failed)}", err=True)
    sys.stdout.flush()
    return 1 if failed or chosen.faults else 0


def choose_ops(text: str | None) -> None:
    """Set the backends of all ops for this process and those it starts; None leaves what the environment says.

    Raises:
        UsageError: an unknown op or backend.
    """
    if text is None:
        return
    from vos_core.ops.backend import VARIABLE, parse_backends

    parse_backends(text)
    os.environ[VARIABLE] = text


def merge_options(config_file: Path | None, assignments: Sequence[str]) -> dict[str, Any]:
    """Return the method options of a YAML file with `key=value` assignments on top; groups of values are merged."""
    return merge(read_yaml(config_file) if config_file is not None else {}, parse_assignments(assignments))


def format_table(record: RunRecord) -> str:
    """Return one aligned line per clip and a line of totals."""
    from vos_core.report.columns import aligned

    header = ("clip", "status", "frames", "objects", "size", "frames/s", "peak MiB", "state MiB")
    lines = aligned([header, *(_row(clip) for clip in record.clips)], names=2)
    steps = [seconds for clip in record.clips for seconds in clip.step_seconds]
    count = Counter(clip.status for clip in record.clips)
    skipped = f", {count['skipped']} skipped" if count["skipped"] else ""
    speed = f", {len(steps) / sum(steps):.1f} frames/s in the method" if steps and sum(steps) else ""
    lines.append(
        f"{count['done']} of {len(record.clips)} clips done{skipped}, {len(steps)} frames{speed}; masks in {record.output}"
    )
    return "\n".join(lines)


def _row(clip: ClipRecord) -> tuple[str, ...]:
    if clip.status != "done":
        return (clip.name, clip.status, "-", "-", "-", "-", "-", "-")
    seconds = clip.seconds_per_frame
    return (
        clip.name,
        clip.status,
        str(clip.frames),
        str(clip.objects),
        f"{clip.width}x{clip.height}",
        f"{1 / seconds:.1f}" if seconds else "-",
        f"{clip.peak_memory_bytes / 2**20:.0f}",
        f"{clip.state_bytes / 2**20:.1f}",
    )
