"""`rsp-pretrain davis`: the label-propagation benchmark, from the original DAVIS to its score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain import METHOD
from rsp_pretrain.cli.options import also_called, propagation_options, take_propagation_options
from vos_core.cli.options import device_options, json_option, method_options, ops_option, output_options, split_names
from vos_core.errors import UsageError

STEPS = ("prepare", "propagate", "score")
_FOLDER = click.Path(path_type=Path)


@also_called("output", "--output_dir", "--output-dir")
@click.command("davis")
@click.option("--davis_path", "--davis-path", type=_FOLDER, help="Original DAVIS 2017 (480p), for step prepare.")
@click.option("--data_path", "--data-path", type=_FOLDER, help="DAVIS_480_880 [default: <output>/DAVIS_480_880].")
@click.option("--split", default="val", show_default=True, help="Sequences of ImageSets/2017.")
@click.option("--only", metavar="A,B", help="Only these sequences.")
@click.option("--steps", metavar="A,B", help="Some of prepare,propagate,score [default: all that the paths allow].")
@click.option("--height", type=click.IntRange(1), default=480, show_default=True, help="Of the prepared frames, in pixels.")
@click.option("--width", type=click.IntRange(1), default=880, show_default=True, help="Of the prepared frames, in pixels.")
@propagation_options
@output_options
@method_options
@device_options
@ops_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    davis_path: Path | None,
    data_path: Path | None,
    split: str,
    only: str | None,
    steps: str | None,
    height: int,
    width: int,
    **options: Any,
) -> None:
    """Score an encoder on DAVIS 2017 by label propagation, the way published numbers were made.

    Prepare: frames and masks to 880x480 by nearest neighbour, JPEG quality 75. Propagate: masks to <output>/masks. Score: the
    official protocol against the prepared masks, tables likewise. Each step keeps what is done; --steps runs some of them.

    Example: rsp-pretrain davis --davis_path DAVIS --finetune checkpoint-199.pth --output out
    """
    from vos_core.cli.clips import Selection
    from vos_core.cli.progress import CountBar
    from vos_core.cli.run import execute
    from vos_core.data.convert import davis_480_880
    from vos_core.data.layout import open_layout
    from vos_core.data.listing import some_of

    chosen, names = _steps(steps, davis_path), split_names(only) if only is not None else None
    if "score" in chosen and options["object_masks"]:
        raise UsageError(
            "step score reads label maps, not --object-masks", fix="Leave the option out, or add --steps prepare,propagate"
        )
    output, as_json = options["output"], options["as_json"]
    prepared = data_path or output / f"DAVIS_{height}_{width}"
    masks = output / "masks"
    if "prepare" in chosen:
        if davis_path is None:
            raise UsageError("step prepare needs --davis_path", fix="Give the original DAVIS, or --data_path with a prepared one")
        with CountBar("folder") as bar:
            done = davis_480_880(
                davis_path, prepared, height=height, width=width, processes=options["processes"], on_done=bar.reach
            )
        click.echo(f"{prepared}: {done.written} files written, {done.kept} were there", err=True)
    elif not prepared.is_dir():
        fix = "Pass --davis_path with the original DAVIS, to prepare it, or --data_path with a prepared one"
        raise UsageError(f"there is no prepared DAVIS at {prepared}", fix=fix)
    if chosen == ("prepare",):
        return
    found = open_layout("davis", prepared, split)
    clips = found.clips if names is None else found.subset(names).clips
    code = 0
    if "propagate" in chosen:
        run = take_propagation_options(options)
        # One JSON object on stdout: that of the score where there is one.
        run |= {"output": masks, "as_json": as_json and "score" not in chosen}
        if as_json and "score" in chosen:
            with _stdout_to_stderr():
                code = execute(METHOD, opened=Selection(clips), **run)
        else:
            code = execute(METHOD, opened=Selection(clips), **run)
    if "score" in chosen and code:
        click.echo("Not scored: a sequence failed. Mend it and run again, or score others: --steps score --only A,B.", err=True)
    elif "score" in chosen:
        absent = [clip.name for clip in clips if not (masks / clip.name).is_dir()]
        if absent:
            raise UsageError(f"{masks} has no masks of {some_of(absent)}", fix="Run step propagate, or name others with --only")
        _score(prepared, masks, split=split, only=names or [], processes=options["processes"], as_json=as_json)
    context.exit(code)


def _steps(text: str | None, davis_path: Path | None) -> tuple[str, ...]:
    if text is None:
        return STEPS if davis_path is not None else STEPS[1:]
    names = split_names(text)
    if not names or not set(names) <= set(STEPS):
        raise UsageError(f"--steps {text}", expected=f"some of {', '.join(STEPS)}")
    return tuple(name for name in STEPS if name in names)


def _score(prepared: Path, masks: Path, *, split: str, only: list[str], processes: int, as_json: bool) -> None:
    from vos_core.cli.eval_output import Output, run
    from vos_core.metrics.davis import DavisSemi
    from vos_core.metrics.roots import davis_jobs

    jobs, warnings = davis_jobs(prepared, masks, split=split, task="semi-supervised", year=2017, resolution="480p", only=only)
    common = {"output": None, "as_json": as_json, "reuse": False}
    run(DavisSemi(split), jobs, Output(common, default=masks), processes=processes, warnings=warnings)


def _stdout_to_stderr() -> Any:
    import contextlib
    import sys

    return contextlib.redirect_stdout(sys.stderr)
