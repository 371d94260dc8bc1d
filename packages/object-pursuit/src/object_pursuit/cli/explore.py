"""`object-pursuit explore`: look at a space of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import encoder_norm_option
from vos_core.cli.options import json_option
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)
PICTURES = 8
"""Images of an object that are segmented together."""


@click.command("explore")
@click.argument("weights", type=_PATH)
@click.option("-o", "--out", "--output", type=_PATH, required=True, help="Folder for the page and its pictures.")
@click.option("--codes", type=_PATH, help="Codes to show instead: a folder of code files, or a checkpoint.")
@click.option("--backbone", type=_PATH, help="The encoder, for weights that come without one.")
@click.option("--data", type=_PATH, help="Data set with objects to segment.")
@click.option("--dataset", default="custom", show_default=True, help="Its layout: iThor, DAVIS, CO3D, YouTube-VOS or custom.")
@click.option("--objects", type=click.IntRange(1), default=12, show_default=True, help="Objects of --data at most.")
@click.option("--between", nargs=2, metavar="A B", help="Names or numbers of two codes [default: the first and its nearest].")
@click.option("--steps", type=click.IntRange(2), default=7, show_default=True, help="Codes on the line between them.")
@click.option("--projection", type=click.Choice(["pca", "directions"]), default="pca", show_default=True, help="To the plane.")
@click.option("--neighbours", "count", type=click.IntRange(1), default=3, show_default=True, help="Nearest codes to list.")
@click.option("--resize", nargs=2, type=click.IntRange(16), default=(256, 256), show_default=True, metavar="H W", help="Size.")
@encoder_norm_option
@json_option
def command(
    weights: Path,
    out: Path,
    codes: Path | None,
    backbone: Path | None,
    data: Path | None,
    dataset: str,
    objects: int,
    between: tuple[str, str] | None,
    steps: int,
    projection: Any,
    count: int,
    resize: tuple[int, int],
    encoder_norm: str,
    as_json: bool,
) -> None:
    """Draw the codes of WEIGHTS in the plane, list nearest objects, show masks between two codes; write a page.

    WEIGHTS is a joint checkpoint, the output folder of pursue, or its checkpoint/hypernet.pth. With --data the page also says
    which code claims which object.

    Example: object-pursuit explore run --data objects/stream --dataset iThor --resize 64 64 --out space
    """
    from object_pursuit.data.images import ObjectFolder
    from object_pursuit.data.objects import open_objects
    from object_pursuit.latent_page import PAGE, Shown, View, write_exploration
    from object_pursuit.parts import load_parts
    from vos_core.cli.printing import print_json

    if out.is_file():
        raise UsageError(f"{out} is a file", expected="a folder to write to")
    parts = load_parts(weights, codes=codes, backbone=backbone)
    shown = []
    for entry in open_objects(dataset, data)[:objects] if data is not None else ():
        count_of = min(PICTURES, len(entry))
        images = ObjectFolder(entry, size=resize, crop=entry.crop)
        shown.append(Shown(entry.name, images.read(range(count_of), draw=0)))
    view = View(projection=projection, count=count, steps=steps, between=between or None, encoder_norm=encoder_norm)
    found = write_exploration(out, parts, shown, view)
    if as_json:
        print_json(found)
    else:
        click.echo(f"{len(parts.names)} codes, {len(shown)} objects: {out / PAGE}")
