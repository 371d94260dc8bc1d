"""`object-pursuit infer`: one-shot segmentation of videos and data sets."""

from __future__ import annotations

from typing import Any

import click

from object_pursuit import METHOD
from vos_core.cli.options import run_options
from vos_core.cli.run import execute


@click.command("infer")
@click.option("--model", type=click.Choice(["coeffnet", "singlenet"]), help="What is fitted to a mask [default: coeffnet].")
@click.option("--epochs", type=click.IntRange(0), metavar="N", help="Passes over the clip's length in a fit [default: 20].")
@click.option("--steps", type=click.IntRange(0), metavar="N", help="Training steps of a fit, instead of --epochs.")
@click.option("--lr", type=float, metavar="X", help="Learning rate of a fit [default: 0.0004].")
@click.option("--resize", nargs=2, type=click.IntRange(16), metavar="H W", help="Size of the network's input [default: 256 256].")
@click.option("--window", type=click.Choice(["frame", "square"]), help="Show whole frames or squares that cover them.")
@click.option("--bases", metavar="PATH", help="Codes to combine: a folder of code files, or a checkpoint.")
@click.option("--backbone", metavar="FILE", help="The encoder, for weights that come without one.")
@click.option("--encoder-norm", "--encoder_norm", type=click.Choice(["batch", "running"]), help="Statistics [default: batch].")
@run_options
@click.pass_context
def command(
    context: click.Context,
    /,
    model: str | None,
    epochs: int | None,
    steps: int | None,
    lr: float | None,
    resize: tuple[int, int] | None,
    window: str | None,
    bases: str | None,
    backbone: str | None,
    encoder_norm: str | None,
    **options: Any,
) -> None:
    """Follow objects through videos, folders of clips or data sets; write a mask per frame and run.json.

    Each object's code is fitted to its first mask, then every frame is segmented on its own. The same as vos run --method
    object-pursuit. Weights are a joint checkpoint, or checkpoint/hypernet.pth in the output of pursue.

    Example: object-pursuit infer --video clip.mp4 --mask first.png --weights multinet_vos_davis.pth --output out
    """
    own = {
        "model": model,
        "epochs": epochs,
        "steps": steps,
        "lr": lr,
        "resize": None if not resize else f"[{resize[0]}, {resize[1]}]",
        "window": window,
        "bases": bases,
        "backbone": backbone,
        "encoder_norm": encoder_norm,
    }
    assignments = tuple(f"{name}={value}" for name, value in own.items() if value is not None)
    options["assignments"] = (*assignments, *options["assignments"])  # --set has the last word
    context.exit(execute(METHOD, **options))
