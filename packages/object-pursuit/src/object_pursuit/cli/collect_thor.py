"""`object-pursuit collect-thor`: iThor data from the simulator, an optional extra."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option


@click.command("collect-thor")
@click.option("--scene", "scenes", multiple=True, required=True, metavar="NAME", help="Room, such as FloorPlan1; repeatable.")
@click.option("--object", "objects", multiple=True, metavar="TYPE", help="Object type, such as Mug; repeatable [default: all].")
@click.option("-o", "--out", "--output", type=click.Path(path_type=Path), required=True, help="Folder for the object folders.")
@click.option(
    "--change-pos-times", "--change_pos_times", "spawns", type=click.IntRange(1), default=120, show_default=True,
    help="Times that objects are placed anew.",
)  # fmt: skip
@click.option("--max-images", type=click.IntRange(1), default=2000, show_default=True, help="Images of an object at most.")
@click.option("--platform", type=click.Choice(["auto", "cloud"]), default="auto", show_default=True, help="cloud: no display.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the first placement.")
@json_option
def command(
    scenes: tuple[str, ...],
    objects: tuple[str, ...],
    out: Path,
    spawns: int,
    max_images: int,
    platform: str,
    seed: int,
    as_json: bool,
) -> None:
    """Collect images and masks of objects in AI2-THOR rooms, one folder per object, in the iThor layout.

    Needs the extra thor, a network for the simulator's first start, and a display or a GPU. A repeated command goes on where it
    stopped. Without a simulator: object-pursuit synth-data.

    Example: object-pursuit collect-thor --scene FloorPlan1 --object Mug --out ithor
    """
    from object_pursuit.data.thor import CollectPlan, collect, open_controller
    from vos_core.cli.printing import print_json
    from vos_core.cli.progress import CountBar

    controller = open_controller(scene=scenes[0], platform=platform)
    counts: dict[str, int] = {}
    with CountBar("image") as bar:
        for scene in scenes:
            plan = CollectPlan(scene, objects=objects, spawns=spawns, images=max_images, seed=seed)
            counts |= collect(controller, plan, out, on_image=lambda _: bar.advance())
    if as_json:
        print_json({"root": str(out), "images": counts})
    else:
        click.echo("\n".join(f"{count:6d}  {name}" for name, count in counts.items()))
