"""`object-pursuit evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import (
    PATH,
    OptionalPath,
    encoder_norm_option,
    hypernet_option,
    network_options,
    resize_option,
    say,
    words,
)
from vos_core.cli.options import device_options, json_option


@click.command("evaluate")
@click.argument("run", type=PATH)
@click.option(*words("data", short="d"), "data", type=PATH, help="Folder of the objects, as in pursue.")
@click.option(*words("dataset"), "dataset", help="iThor, DAVIS, CO3D, YouTube-VOS or custom [default: CO3D; tiny: iThor].")
@click.option(*words("zs"), "zs", type=OptionalPath(), help="Folder of codes [default: RUN/zs].")
@click.option("--label", type=click.IntRange(1), help="Object id in palette masks [default: any object].")
@network_options
@hypernet_option
@encoder_norm_option
@resize_option
@device_options
@json_option
def command(run: Path, as_json: bool, **options: Any) -> None:
    """Score every code of the pursuit in RUN on the images of its object; write RUN/evaluation.json.

    Two sets of numbers: IoU by batch as published (random crops, dropout on, so it differs from run to run), and clean ones:
    whole images, dropout off. For DAVIS the mean over the 2016 validation sequences is told as well.

    Example: object-pursuit evaluate run --data DAVIS --dataset DAVIS --use_backbone
    """
    from object_pursuit.cli.pursue_run import device_of, open_source
    from object_pursuit.evaluate import evaluate_codes
    from object_pursuit.start import choose_config, prepare_start
    from vos_core.cli.printing import print_json

    device = device_of(options)
    source, _ = open_source(options)
    own = run / "checkpoint" / "backbone.pth"
    hypernet = options["hypernet"] or run / "checkpoint" / "hypernet.pth"
    config = choose_config(options["preset"], use_backbone=options["use_backbone"], hypernet=hypernet, z_dim=options["z_dim"])
    backbone = options["backbone"] or (None if config.encoder == "generated" else own)
    start = prepare_start(config, hypernet=hypernet, backbone=backbone, seed=options["seed"])
    result = evaluate_codes(
        run,
        start,
        source.open,
        lambda name: source.open(name, whole=True),
        zs=options["zs"],
        encoder_norm=options["encoder_norm"],
        seed=options["seed"],
        device=device,
        precision=options["precision"],
        tell=say,
    )
    if as_json:
        print_json(result)
        return
    for name, means in (("all objects", result["mean"]), ("DAVIS 2016 val", result["davis_2016_val"])):
        if means:
            click.echo(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in means.items()))
