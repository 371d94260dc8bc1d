"""`vos mask`: convert masks between PNG, RLE JSON and npz."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.printing import counted, print_json

_FORMS = ("png", "objects", "sav", "rle", "list", "npz", "packed")


@click.group("mask")
def command() -> None:
    """Convert masks between PNG, RLE JSON and npz.

    Example: vos mask convert out/dog dog.json
    """


@command.command("convert")
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option("--from", "source_form", type=click.Choice(_FORMS), help="Form of SRC  [default: by suffix and folder content].")
@click.option(
    "--to", "target_form", type=click.Choice(_FORMS), help="Form of DST  [default: by suffix: .json sav, .npz npz, else png]."
)
@click.option("--fps", type=click.FloatRange(min=0, min_open=True), help="Frames per second of the masks, for JSON.")
@click.option("--binary", is_flag=True, help="Read PNGs as one object: every value above 0.")
@click.option("--threshold", type=click.IntRange(1, 255), help="With --binary: least grey value of the object (soft edges).")
@click.option("--resize", is_flag=True, help="Bring PNGs of another size to that of the first (nearest pixel).")
@click.option("--palette", type=click.Choice(["davis", "aot"]), default="davis", show_default=True, help="Colours of PNGs.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def convert(
    source: Path,
    target: Path,
    source_form: str | None,
    target_form: str | None,
    fps: float | None,
    binary: bool,
    threshold: int | None,
    resize: bool,
    palette: str,
    as_json: bool,
) -> None:
    """Convert the masks of one clip from SRC to DST.

    SRC is a PNG, a folder of PNGs, a folder with one folder of PNGs per object, a .json (SA-V, masks with fps, bare list, SA-1B)
    or a .npz. DST takes the form png (label maps), objects (a folder per object), sav, rle or list (JSON), npz or packed (bits).
    Only objects and JSON keep overlaps; elsewhere the lowest id wins. Ids that count from 0 are raised by one.

    Example: vos mask convert sav_000001_manual.json masks/sav_000001 --to objects
    """
    from vos_core.io.convert import FORMS, form_of, open_masks, save_masks
    from vos_core.io.palette import AOT_PALETTE, DAVIS_PALETTE

    given = next((known for known in FORMS if known == source_form), None)
    chosen = next((known for known in FORMS if known == target_form), form_of(target))
    masks = open_masks(source, form=given, binary=binary, threshold=threshold, on_size="resize" if resize else "error")
    ids = save_masks(target, masks, form=chosen, fps=fps, palette=AOT_PALETTE if palette == "aot" else DAVIS_PALETTE)
    height, width = masks.size
    if as_json:
        report = {"target": str(target), "form": chosen, "frames": len(masks.frames), "ids": list(ids)}
        print_json({**report, "height": height, "width": width})
    else:
        what = f"{counted(len(masks.frames), 'frame')} of {width}x{height}, {counted(len(ids), 'object')}"
        click.echo(f"{target}: {what}, form {chosen}")
