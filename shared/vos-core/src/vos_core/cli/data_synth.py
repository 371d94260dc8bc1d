"""`vos data synth`: generate clips with exact ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json
from vos_core.cli.progress import CountBar
from vos_core.data.synthetic import SCENARIOS
from vos_core.data.synthetic_write import ClipPlan, Layout, write_clips
from vos_core.errors import UsageError


@click.command("synth")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--layout", type=click.Choice(get_args(Layout)), default="davis", show_default=True, help="Folder structure and file kinds."
)
@click.option("--clips", type=click.IntRange(min=1), default=4, show_default=True, help="Number of clips.")
@click.option("--frames", type=click.IntRange(min=1), default=24, show_default=True, help="Frames of each clip.")
@click.option("--size", default="240x432", show_default=True, metavar="HxW", help="Frame size in pixels, height first.")
@click.option("--objects", type=click.IntRange(min=1, max=254), default=2, show_default=True, help="Objects in each clip.")
@click.option(
    "--scenario", "scenarios", multiple=True, type=click.Choice((*SCENARIOS, "all")), default=("mixed",), show_default=True,
    help="What happens; repeat it to take turns, `all` takes each in turn.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Clip i is drawn from seed + i.")
@json_option
def command(
    out: Path,
    layout: Layout,
    clips: int,
    frames: int,
    size: str,
    objects: int,
    scenarios: tuple[str, ...],
    seed: int,
    as_json: bool,
) -> None:
    """Generate clips of textured objects with exact masks under OUT; the same options give the same bytes.

    Files that are there already are kept, so an interrupted run goes on where it stopped.

    Example: vos data synth clips --clips 8 --frames 48 --size 480x854 --objects 3 --scenario all
    """
    chosen = tuple(SCENARIOS) if "all" in scenarios else scenarios
    height, width = parse_size(size)
    plan = ClipPlan(clips=clips, frames=frames, height=height, width=width, objects=objects, scenarios=chosen, seed=seed)
    with CountBar("clip", total=clips) as bar:
        names = write_clips(out, plan, layout=layout, on_clip=lambda _: bar.advance())
    if as_json:
        print_json({"root": str(out), "layout": layout, "clips": list(names)})
    else:
        for name in names:
            click.echo(name)


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of an `HxW` text.

    Raises:
        UsageError: another text.
    """
    height, separator, width = text.lower().partition("x")
    if not separator or not height.isdigit() or not width.isdigit():
        raise UsageError(f"--size {text}", expected="HxW in pixels, for example 480x854")
    return int(height), int(width)
