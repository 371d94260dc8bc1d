"""`sam2-rcms infer`."""

from __future__ import annotations

from typing import Any

import click

from sam2_rcms import METHOD
from sam2_rcms.cli.options import add_second_names, sam2_options, take_sam2_options
from vos_core.cli.options import given, run_options
from vos_core.cli.run import execute


@click.command("infer")
@sam2_options
@run_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Follow objects through videos, folders of clips or data sets; write a mask per frame and run.json.

    The same as vos run --method sam2-rcms, with the original's option names as well: --base_video_dir, --input_mask_dir and
    --output_mask_dir name folders of videos, masks and results. A repeated command resumes; --num_gpus runs videos in parallel.

    Example: sam2-rcms infer --video clip.mp4 --mask first.png --output out
    """
    context.exit(execute(METHOD, **take_sam2_options(options, palette_given=given(context, "palette"))))


add_second_names(command)
