"""`sam2-rcms export-checkpoint`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vos_core.cli.options import json_option

_FILE = click.Path(path_type=Path)


@click.command("export-checkpoint")
@click.argument("source", type=_FILE)
@click.argument("target", type=_FILE)
@click.option("--ema", is_flag=True, help="Take the average of the weights that the training kept (ema_decay).")
@json_option
def command(source: Path, target: Path, ema: bool, as_json: bool) -> None:
    """Take the network out of a training checkpoint and write it as released weights are: {"model": tensors} and nothing else.

    SOURCE is a checkpoint of sam2-rcms train, of the original's training, or any file of SAM 2.1 weights. TARGET ends in .pt,
    .pth or .safetensors. Every key and shape is checked against the four sizes first.

    Example: sam2-rcms export-checkpoint saves/stage2/checkpoint_73320.pth sam2.1_mine.pt
    """
    from sam2_rcms.export import export_checkpoint

    done = export_checkpoint(source, target, ema=ema)
    if as_json:
        click.echo(json.dumps({"target": str(target), "size": done.size, "keys": done.keys, "average": ema}))
        return
    click.echo(f"{target}: SAM 2.1 {done.size}, {done.keys} keys, {done.numbers:,} numbers{', averaged' if ema else ''}")
