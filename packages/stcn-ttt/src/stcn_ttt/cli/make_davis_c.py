"""`stcn-ttt make-davis-c`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from vos_core.cli.clips import select_clips
from vos_core.cli.options import json_option
from vos_core.data.davis_c import CORRUPTIONS, STRENGTHS

_PATH = click.Path(path_type=Path)


@click.command("make-davis-c")
@click.option("--davis_path", "--davis-path", type=_PATH, help="DAVIS 2017; its val split is corrupted.")
@click.option("--clips", type=_PATH, help="In its place: any folder of clips.")
@click.option("--only", metavar="A,B", help="Names of the clips to take, separated by commas.")
@click.option("--strength", "strengths", type=click.Choice(STRENGTHS), multiple=True, help="Repeatable [default: all].")
@click.option("--corruption", "corruptions", type=click.Choice(CORRUPTIONS), multiple=True, help="Repeatable [default: all 14].")
@click.option("--seed", type=click.IntRange(0), help="Seed of noise and glass blur [default: drawn anew, as the original did].")
@click.option("--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="JPEG quality.")
@click.option("--style-transfer", metavar="MODULE:FUNCTION", help="Function (content, style) -> picture for style1..4.")
@click.option("--style-picture", "style_pictures", type=_PATH, multiple=True, help="The four style pictures, in order.")
@click.option("-n", "--processes", type=click.IntRange(1), default=1, show_default=True, help="Worker processes.")
@click.option("-o", "--output", type=_PATH, required=True, help="Folder: OUTPUT/<strength>/<corruption>/<clip>/<frame>.jpg.")
@json_option
def command(
    davis_path: Path | None,
    clips: Path | None,
    only: str | None,
    strengths: tuple[str, ...],
    corruptions: tuple[str, ...],
    seed: int | None,
    quality: int,
    style_transfer: str | None,
    style_pictures: tuple[Path, ...],
    processes: int,
    output: Path,
    as_json: bool,
) -> None:
    """Corrupt clean frames in 14 ways at three strengths; a rerun goes on where one stopped.

    cartoon needs the extra stcn-ttt[cartoon], crf_compression vos-core[video]; style1..4 need a style transfer function of
    your own.

    Example: stcn-ttt make-davis-c --davis_path DAVIS/2017 --strength low --corruption contrast --seed 1 --output DAVIS-C
    """
    from tqdm import tqdm

    from stcn_ttt.davis_c.make import Settings, make_davis_c

    layout = None if davis_path is None else "davis"
    chosen = select_clips(clips=clips, layout=layout, root=davis_path, split="val" if layout else None, only=only).clips
    wanted, levels = corruptions or CORRUPTIONS, strengths or STRENGTHS
    settings = Settings(seed=seed, quality=quality, stylise=style_transfer, style_pictures=style_pictures)
    with tqdm(total=len(chosen) * len(wanted) * len(levels), unit="clip", file=sys.stderr) as bar:
        written = make_davis_c(
            chosen,
            output,
            corruptions=wanted,
            strengths=levels,
            settings=settings,
            processes=processes,
            on_done=lambda job: bar.update(1),
        )
    found = {
        "output": str(output),
        "clips": len(chosen),
        "corruptions": list(wanted),
        "strengths": list(levels),
        "written": written,
    }
    click.echo(json.dumps(found) if as_json else f"{written} frames written to {output}")
