"""`object-pursuit segment`: known objects in a video, without a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import encoder_norm_option
from vos_core.cli.options import compute_options, json_option
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command("segment")
@click.argument("weights", type=_PATH)
@click.option("--video", type=_PATH, required=True, help="Video file or folder of frames.")
@click.option("--code", "wanted", multiple=True, metavar="NAME", help="Name or number of a code; repeatable [default: all].")
@click.option("-o", "--output", "--out", "out", type=_PATH, required=True, help="Folder for masks and codes.json.")
@click.option("--codes", type=_PATH, help="Codes to choose from instead: a folder of code files, or a checkpoint.")
@click.option("--backbone", type=_PATH, help="The encoder, for weights that come without one.")
@click.option("--resize", nargs=2, type=click.IntRange(16), default=(256, 256), show_default=True, metavar="H W", help="Input.")
@click.option(
    "--window", type=click.Choice(["frame", "square"]), default="frame", show_default=True, help="How frames are shown."
)
@encoder_norm_option
@compute_options
@json_option
def command(
    weights: Path,
    video: Path,
    wanted: tuple[str, ...],
    out: Path,
    codes: Path | None,
    backbone: Path | None,
    resize: tuple[int, int],
    window: Any,
    encoder_norm: Any,
    device: str,
    precision: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Find objects that have a code in a video; write a palette PNG per frame, where pixel k is the k-th code given.

    WEIGHTS is a joint checkpoint, the output folder of pursue, or its checkpoint/hypernet.pth. Masks that are there already are
    kept if they were made with the same codes.

    Example: object-pursuit segment run --code mug --video kitchen.mp4 --output out
    """
    from object_pursuit.config import SegmenterConfig
    from object_pursuit.known import segment_known
    from object_pursuit.latent_page import find_code
    from object_pursuit.parts import load_parts
    from vos_core.cli.printing import print_json
    from vos_core.run.device import apply_numerics, apply_threads, check_precision, choose_device

    parts = load_parts(weights, codes=codes, backbone=backbone)
    chosen = [find_code(parts.names, name) for name in wanted] or list(range(len(parts.names)))
    if len(set(chosen)) < len(chosen) or len(chosen) > 255:
        raise UsageError(f"{len(chosen)} codes, some of them twice or too many", expected="up to 255 different codes")
    place = choose_device(device)
    check_precision(precision, place)
    apply_threads(threads)
    apply_numerics(precision, place)
    config = SegmenterConfig(resize=resize, window=window, encoder_norm=encoder_norm)
    count = segment_known(parts, chosen, video, out, config, device=place, precision=precision)
    if as_json:
        print_json({"output": str(out), "frames": count, "codes": {str(k + 1): parts.names[i] for k, i in enumerate(chosen)}})
    else:
        click.echo(f"{count} frames, {len(chosen)} code{'' if len(chosen) == 1 else 's'}: {out}")
