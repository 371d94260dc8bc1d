"""The command `sam2-rcms`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from sam2_rcms.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS = {
    "infer": ("sam2_rcms.cli.infer", "Follow objects through videos, folders of clips or data sets."),
    "train": ("sam2_rcms.cli.train", "Fine-tune on videos: stage 1, stage 2 or a configuration file."),
    "score": ("sam2_rcms.cli.score", "Score masks with the MOSEv2 metrics."),
    "pack": ("sam2_rcms.cli.pack", "Check masks and zip them for the evaluation server."),
    "export-checkpoint": ("sam2_rcms.cli.export_checkpoint", "Take the network out of a training checkpoint."),
    "bench": ("sam2_rcms.cli.bench", "Measure seconds per frame and peak memory on this machine."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sam2-rcms")
def main() -> None:
    """Segment objects through video with SAM 2.1 and reliable conditioned memory selection.

    Example: sam2-rcms infer --video clip.mp4 --mask first.png --output out
    """
