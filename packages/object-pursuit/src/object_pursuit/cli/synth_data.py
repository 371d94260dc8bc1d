"""`object-pursuit synth-data`: objects to try everything with, without a download."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option


@click.command("synth-data")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--pretrain", type=click.IntRange(0), default=8, show_default=True, help="Objects of OUT/pretrain.")
@click.option("--stream", type=click.IntRange(0), default=9, show_default=True, help="Objects of OUT/stream.")
@click.option("--images", type=click.IntRange(1), default=32, show_default=True, help="Pictures of each object.")
@click.option("--heldout", type=click.IntRange(0), default=16, show_default=True, help="More pictures of each, OUT/heldout.")
@click.option("--size", type=click.IntRange(16), default=64, show_default=True, metavar="PX", help="Side of the pictures.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Another seed draws another world.")
@json_option
def command(out: Path, pretrain: int, stream: int, images: int, heldout: int, size: int, seed: int, as_json: bool) -> None:
    """Draw coloured shapes with exact masks under OUT, in the iThor layout; the same options give the same bytes.

    OUT/pretrain is for pretrain, OUT/stream for pursue, OUT/heldout for honest scores. Files that are there already are kept,
    so an interrupted run goes on where it stopped.

    Example: object-pursuit synth-data objects
    """
    from object_pursuit.data.shapes_write import ShapePlan, write_shapes
    from vos_core.cli.printing import print_json
    from vos_core.cli.progress import CountBar

    plan = ShapePlan(pretrain=pretrain, stream=stream, images=images, heldout=heldout, size=size, seed=seed)
    with CountBar("object", total=len(plan.folders())) as bar:
        folders = write_shapes(out, plan, on_object=lambda _: bar.advance())
    if as_json:
        print_json({"root": str(out), "folders": list(folders)})
    else:
        click.echo(f"{len(folders)} object folders below {out}: pretrain, stream and heldout, each with imgs and masks")
