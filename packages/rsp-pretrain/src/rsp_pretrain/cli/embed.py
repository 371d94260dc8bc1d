"""`rsp-pretrain embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.probe_options import ENCODER_OPTIONS, encoder_options
from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json

_POOLS = ["class", "mean", "tokens", "class+prior-logits", "class+prior-onehot"]


@click.command("embed")
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File: .npz or .safetensors.")
@click.option("--pool", type=click.Choice(_POOLS), default="class", show_default=True, help="What a vector is made of.")
@click.option(
    "--history", type=click.IntRange(1), default=1, show_default=True, help="Frames fused as CortexBench does (it takes 3)."
)
@click.option("--resize", type=click.IntRange(1), default=256, show_default=True, help="Shorter side in pixels.")
@click.option("--crop", type=click.IntRange(1), default=224, show_default=True, help="Side of the centre crop in pixels.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Pictures encoded at a time.")
@encoder_options
@json_option
def command(
    inputs: tuple[Path, ...],
    output: Path,
    pool: Any,
    history: int,
    resize: int,
    crop: int,
    batch: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed images, folders of frames and videos with the frozen encoder and write all vectors to one file.

    Each input is a clip with a history of its own. Defaults are CortexBench's: shorter side 256, centre crop 224, class token.

    Example: rsp-pretrain embed clip.mp4 frames/ --weights rsp_vit_small_patch16 --history 3 --output clip.npz
    """
    from rsp_pretrain.probe.dump import check_suffix, embed_inputs, write_embeddings
    from rsp_pretrain.probe.embedding import CortexTransform, Embedder
    from rsp_pretrain.probe.session import open_encoder

    check_suffix(output)
    transform = CortexTransform(resize=resize, crop=crop)
    loaded = open_encoder(**{name: options[name] for name in ENCODER_OPTIONS}, whole=pool.startswith("class+prior"))
    if loaded.report:
        click.echo(loaded.report, err=True)
    embedder = Embedder(loaded.encoder, pool=pool, image_size=crop)
    found = embed_inputs(inputs, embedder, transform=transform, history=history, batch=batch)
    info = {
        **loaded.settings,
        "pool": pool,
        "history": history,
        "resize": resize,
        "crop": crop,
        "inputs": [str(path) for path in inputs],
    }
    write_embeddings(output, found, info)
    shape = {"frames": len(found.vectors), "size": found.vectors.shape[1]}
    if as_json:
        print_json({"output": str(output), **shape, **info})
    else:
        click.echo(f"{output}: {shape['frames']} vectors of {shape['size']} numbers")
    if not loaded.settings["weights"]["trained"]:
        click.echo("Untrained weights (--weights random): these vectors test the machinery.", err=True)
