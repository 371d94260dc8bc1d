"""What the commands that probe a frozen encoder share: its weights, sizes as text, and the table of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from vos_core.cli.options import device_options
from vos_core.cli.printing import print_json, print_outcomes
from vos_core.errors import UsageError

if TYPE_CHECKING:
    from vos_core.data.layout import Problem
    from vos_core.types import RunRecord

F = TypeVar("F", bound=Callable[..., Any])
ENCODER_OPTIONS = ("weights", "variant", "device", "precision", "threads", "seed")


def encoder_options(function: F) -> F:
    """Add `--weights` (also `--finetune`), `--variant`, `--device`, `--precision`, `--threads` and `--seed`."""
    weights = click.option(
        "--weights",
        "--finetune",
        default="auto",
        show_default=True,
        metavar="NAME|FILE|random",
        help="Checkpoint: a registered name, a file (RSP, DINO, MAE, timm, ...), or random for untrained weights.",
    )
    variant = click.option("--variant", metavar="NAME", help="What the checkpoint must hold [default: told by a file].")
    return weights(variant(device_options(function)))


def context_options(*, topk: int, size: str, batch: int) -> Callable[[F], F]:
    """Return the decorator that adds options of the JHMDB and VIP protocol, in its words; arguments are defaults to show."""
    options = (
        click.option("--temperature", type=float, help="Of the soft-max over similarities [default: 0.7]."),
        click.option("--topk", type=click.IntRange(1), help=f"Context tokens that each token listens to [default: {topk}]."),
        click.option("--radius", type=float, help="Window of the last frames in tokens, 0 = none [default: 20]."),
        click.option(
            "--video_len", "--video-len", type=click.IntRange(1), help="Last frames that labels come from [default: 20]."
        ),
        click.option("--size", metavar="S|H,W", help=f"Longer side in pixels, or height and width [default: {size}]."),
        click.option("--batch", type=click.IntRange(1), help=f"Frames encoded at a time [default: {batch}]."),
    )

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def taken(options: dict[str, Any], *names: str) -> dict[str, Any]:
    """Remove `names` from options and return those that were given."""
    found = {name: options.pop(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def parse_size(text: str) -> tuple[int, ...]:
    """Return one or two numbers from `880` or `320,320`.

    Raises:
        UsageError: something else.
    """
    try:
        found = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        found = ()
    if len(found) not in (1, 2) or min(found) < 1:
        raise UsageError(f"--size {text}", expected="one number (880) or height and width (320,320)")
    return found


def print_problems(problems: Sequence[Problem]) -> int:
    """Print what was found of a data set on stderr; return how many of these are errors."""
    for problem in problems:
        click.echo(f"{problem.level}: {problem}", err=True)
    return sum(problem.level == "error" for problem in problems)


def print_run(context: click.Context, record: RunRecord, *, faults: int, as_json: bool) -> None:
    """Print scores on stdout and what went wrong on stderr, and leave with 1 if a clip failed or the data have faults."""
    from rsp_pretrain.probe.session import record_json

    failed = [clip for clip in record.clips if clip.status == "failed"]
    if as_json:
        print_json(record_json(record))
    else:
        for name, value in (record.scores or {}).items():
            for key, number in value.items() if isinstance(value, dict) else ((name, value),):
                click.echo(f"{key:>14} {number:6.2f}")
        frames = sum(clip.frames for clip in record.clips)
        seconds = sum(sum(clip.step_seconds) for clip in record.clips)
        done = sum(clip.status == "done" for clip in record.clips)
        click.echo(
            f"{done} of {len(record.clips)} clips, {frames} frames, {seconds:.1f} s in the method; results in {record.output}"
        )
    if not record.weights["trained"]:
        click.echo("Untrained weights (--weights random): these figures test the machinery and are no result.", err=True)
    print_outcomes([record])
    if faults:
        click.echo(f"{faults} faults of the data are named above: these figures are not of the whole split.", err=True)
    context.exit(1 if failed or faults else 0)
