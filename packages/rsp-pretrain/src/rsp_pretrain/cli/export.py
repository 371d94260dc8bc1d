"""`rsp-pretrain export`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command("export")
@click.argument("source", metavar="NAME|FILE")
@click.argument("target", type=_FILE, required=False)
@click.option("--variant", metavar="NAME", help="What it must be [default: whatever it is].")
@click.option("--image_size", "--image-size", type=click.IntRange(16), help="Resample the position table for this image side.")
@json_option
def command(source: str, target: Path | None, variant: str | None, image_size: int | None, as_json: bool) -> None:
    """Check that a checkpoint holds an encoder, say what else it holds, and write the encoder to TARGET (.safetensors, .pth).

    Checkpoints of RSP, DINO, MAE, MoCo v3 and timm are understood where their keys allow. Without TARGET nothing is written.

    Example: rsp-pretrain export checkpoint-199.pth encoder.safetensors
    """
    from rsp_pretrain.weights import METHOD_NAME, load_encoder, register
    from vos_core.weights.convert import save_state
    from vos_core.weights.registry import resolve

    register()
    found = resolve(source, method=METHOD_NAME)
    encoder, report = load_encoder(found.path, variant=variant, image_size=image_size)
    assert report is not None
    if target is not None:
        metadata = {"source": found.path.name, "source_sha256": found.sha256} if target.suffix == ".safetensors" else None
        save_state(target, encoder.state_dict(), metadata=metadata)
    parameters = sum(value.numel() for value in encoder.parameters())
    if as_json:
        print_json({**asdict(report), "parameters": parameters, "target": None if target is None else str(target)})
        return
    click.echo(f"{report}\n  {parameters:,} parameters")
    if target is not None:
        click.echo(f"written to {target}")
