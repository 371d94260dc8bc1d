"""`rsp-pretrain visualize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.probe_options import ENCODER_OPTIONS, encoder_options, parse_size
from vos_core.cli.options import json_option, split_names
from vos_core.cli.printing import print_json
from vos_core.errors import UsageError, WeightsError

_PATH = click.Path(path_type=Path)
_SHOWS = ("features", "attention", "reconstruction", "masks")


@click.command("visualize")
@click.argument("source", type=_PATH)
@click.option("--mask", type=_PATH, help="Mask of the first frame, to show how it is propagated.")
@click.option("-o", "--output", type=_PATH, required=True, help="Folder of PNG files and index.html.")
@click.option("--show", metavar="A,B", help=f"Of {', '.join(_SHOWS)} [default: all that the checkpoint and --mask allow].")
@click.option("--frames", type=click.IntRange(1), default=4, show_default=True, help="Frames to show, evenly spread.")
@click.option("--size", default="480", show_default=True, metavar="S|H,W", help="Shorter side in pixels, or height and width.")
@click.option("--block", type=int, default=-1, show_default=True, help="Encoder block whose attention is shown.")
@click.option("--gap", type=click.IntRange(0), default=8, show_default=True, help="Frames from present to future.")
@click.option("--norm_pix_loss/--no_norm_pix_loss", "--norm-pix-loss/--no-norm-pix-loss", default=None, help="What the network "
              "was trained to predict [default: told by the checkpoint].")  # fmt: skip
@encoder_options
@json_option
def command(
    source: Path,
    mask: Path | None,
    output: Path,
    show: str | None,
    frames: int,
    size: str,
    block: int,
    gap: int,
    norm_pix_loss: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what an encoder sees in a video: features, attention, reconstructions, propagated masks; PNG files and one page.

    SOURCE is a video file, a folder of frames or one image. Reconstructions need a whole pre-training checkpoint.

    Example: rsp-pretrain visualize clip.mp4 --mask first.png --weights checkpoint-199.pth --output pictures
    """
    from rsp_pretrain.probe.session import open_encoder
    from rsp_pretrain.visual.gallery import GalleryOptions, make_gallery
    from vos_core.cli.progress import CountBar

    wanted = None if show is None else split_names(show)
    unknown = [name for name in wanted or () if name not in _SHOWS]
    if unknown or wanted == []:
        raise UsageError(f"--show {show}", expected=f"names of {', '.join(_SHOWS)}")
    chosen = {name: options[name] for name in ENCODER_OPTIONS}
    loaded, whole = None, wanted is None or "reconstruction" in wanted
    if whole:
        try:
            loaded = open_encoder(**chosen, whole=True, norm_pix_loss=norm_pix_loss)
        except WeightsError as error:
            if wanted is not None:
                raise
            click.echo(f"no reconstructions: {error}", err=True)
    if loaded is None:
        loaded, whole = open_encoder(**chosen), False
    shows = wanted or [name for name in _SHOWS if (whole or name != "reconstruction") and (mask is not None or name != "masks")]
    settings = GalleryOptions(frames=frames, scale=parse_size(size), block=block, gap=gap, seed=options["seed"])
    weights = loaded.settings["weights"]
    note = "" if weights["trained"] else "Untrained weights (--weights random): these pictures test the machinery."
    with CountBar("picture") as bar:
        written = make_gallery(
            source,
            loaded.encoder,
            output,
            settings,
            shows=shows,  # type: ignore[arg-type] # checked above
            title=f"{weights['name'] if weights['trained'] else 'Untrained encoder'} on {source.name}",
            note=note,
            mask=mask,
            on_picture=bar.advance,
        )
    if as_json:
        print_json({"page": str(written[-1]), "pictures": [str(path) for path in written[:-1]], "weights": dict(loaded.settings)})
    else:
        click.echo(f"{len(written) - 1} pictures and {written[-1]}")
    if note:
        click.echo(note, err=True)
