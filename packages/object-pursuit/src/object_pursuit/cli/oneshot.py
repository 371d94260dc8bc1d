"""`object-pursuit oneshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import (
    PATH,
    OptionalPath,
    hypernet_option,
    image_size,
    init_option,
    network_options,
    required,
    resize_option,
    say,
    words,
    write_run_file,
)
from vos_core.cli.options import device_options, json_option
from vos_core.errors import InterruptError


@click.command("oneshot")
@click.option(*words("imgs"), "imgs", type=PATH, help="Folder of images.")
@click.option(*words("masks"), "masks", type=PATH, help="Folder of their masks, same stems.")
@click.option(*words("out"), "out", type=PATH, default=Path("checkpoints_nshot"), show_default=True, help="Output folder.")
@click.option(
    *words("model"),
    "model",
    type=click.Choice(["coeffnet", "singlenet", "deeplab", "unet"]),
    default="coeffnet",
    show_default=True,
)
@click.option(*words("bases"), "bases", type=OptionalPath(), help="Base codes: folder or joint checkpoint (coeffnet).")
@click.option(
    *words("dataset"), "dataset", default="DAVIS", show_default=True, help="DAVIS and others crop at random; iThor not."
)
@click.option(*words("n"), "shots", type=int, default=1, show_default=True, help="Images to train on; 0 = all.")
@click.option(*words("nval"), "nval", type=int, default=400, show_default=True, help="Images scored as published; 0 = all.")
@click.option(*words("shuffle"), "shuffle", type=int, default=3, show_default=True, help="Seed of the image order (iThor only).")
@click.option(*words("batch_size"), "batch_size", type=click.IntRange(1), default=8, show_default=True)
@click.option(*words("epochs"), "epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option(*words("lr"), "lr", type=float, default=4e-4, show_default=True)
@click.option(*words("eval_step"), "eval_step", type=float, default=10, show_default=True, help="Epochs between evaluations.")
@click.option(*words("save_ckpt"), "save_ckpt", is_flag=True, help="Write the best epoch's network: ckpt_best.pth.")
@click.option(*words("save_viz"), "save_viz", is_flag=True, help="Write pictures with the predicted object in red: viz_pred.")
@click.option(*words("use_dice_loss"), "use_dice_loss", is_flag=True, help="Measure quality by Dice instead of IoU.")
@click.option("--label", type=click.IntRange(1), help="Object id in palette masks [default: any object].")
@network_options
@hypernet_option
@init_option
@resize_option
@device_options
@json_option
def command(as_json: bool, **options: Any) -> None:
    """Fit a network to the first n images of a sequence and score it on the rest.

    Quality by the published protocol (dropout on, random crops, training images among the scored) stands beside clean scores:
    whole images, dropout off, training images left out. Images without a mask are left out, too. One fit is of one object:
    choose it with --label where masks show several. For masks of a video, and for several objects, use infer.

    Example: object-pursuit oneshot --imgs clip/imgs --masks clip/masks --bases j.pth --hypernet j.pth --backbone j.pth
    """
    from object_pursuit.cli.oneshot_run import run_oneshot
    from vos_core.cli.printing import print_json

    imgs = required(options["imgs"], "--imgs", "a folder of images")
    masks = required(options["masks"], "--masks", "a folder of masks with the images' stems")
    size = image_size(options["resize"], options["preset"])
    try:
        result = run_oneshot(imgs, masks, size, options, tell=say)
    except KeyboardInterrupt:
        raise InterruptError("interrupted; a fit is not resumed", fix="Run the command again, with fewer --epochs") from None
    write_run_file(options["out"], "oneshot", dict(options))
    if as_json:
        print_json(result.to_json())
        return
    fit = result.fit
    click.echo(f"{options['model']}: quality {fit.quality:.3f} (epoch {fit.best_epoch} of {fit.epochs}, {result.scored} images)")
    if result.jaccard is not None and result.first is not None and result.last is not None:
        click.echo(f"clean: J {result.jaccard:.3f}, Dice {result.dice:.3f}, decay {result.first - result.last:+.3f}")
    else:
        click.echo("clean: no score, since every image that has a mask was trained on; infer segments the others")
    if options["save_ckpt"]:
        click.echo(f"network: {options['out'] / 'ckpt_best.pth'}")
