"""`rsp-pretrain propagate`."""

from __future__ import annotations

from typing import Any

import click

from rsp_pretrain import METHOD
from rsp_pretrain.cli.options import also_called, propagation_options, take_propagation_options
from vos_core.cli.options import run_options
from vos_core.cli.run import execute


@also_called("output", "--output_dir", "--output-dir")
@click.command("propagate")
@propagation_options
@run_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Follow objects through videos, folders of clips or data sets by label propagation; write a mask per frame and run.json.

    The same as vos run --method rsp-pretrain, with the original's option names. Any ViT checkpoint whose keys are those of DINO,
    MAE, MoCo v3 or timm can be compared: give it as --weights.

    Example: rsp-pretrain propagate --video clip.mp4 --mask first.png --weights checkpoint-199.pth --output out
    """
    context.exit(execute(METHOD, **take_propagation_options(options)))
