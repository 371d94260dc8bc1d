"""The command `rmem-deaot`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from rmem_deaot.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("rmem_deaot.cli.infer", "Follow objects through videos, folders of clips or data sets."),
    "eval": ("rmem_deaot.cli.evaluate", "Segment a benchmark the way its published numbers were made."),
    "train": ("rmem_deaot.cli.train", "Train a stage of AOT, DeAOT or RMem."),
    "demo": ("rmem_deaot.cli.demo", "Segment clips with first masks and write overlays and playable videos."),
    "vost-metric": ("rmem_deaot.cli.vost_metric", "Score VOST results: J and J over the last quarter."),
    "inspect": ("rmem_deaot.cli.inspect", "Say which variant a checkpoint is; check that it loads."),
    "bench": ("rmem_deaot.cli.bench", "Segment and score a benchmark in one go."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rmem-deaot")
def main() -> None:
    """Segment objects through video with AOT, DeAOT and restricted memory.

    Example: rmem-deaot infer --video clip.mp4 --mask first.png --output out
    """
