"""The command `stcn-ttt`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from stcn_ttt.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS = {
    "infer": ("stcn_ttt.cli.infer", "Follow objects through videos, folders of clips or data sets."),
    "eval": ("stcn_ttt.cli.evaluate", "Segment a benchmark the way its published numbers were made."),
    "ttt": ("stcn_ttt.cli.ttt", "Adapt to each video at test time, segment and score it; one table."),
    "save-config": ("stcn_ttt.cli.save_config", "Write a test-time training configuration as YAML."),
    "train": ("stcn_ttt.cli.train", "Train STCN offline: one stage or a chain of stages."),
    "make-davis-c": ("stcn_ttt.cli.make_davis_c", "Make DAVIS-C, corrupted frames, from clean DAVIS."),
    "convert": ("stcn_ttt.cli.convert", "Check a checkpoint, widen its first convolution, change its format."),
    "merge": ("stcn_ttt.cli.merge", "Average soft masks of several runs into label maps."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stcn-ttt")
def main() -> None:
    """Segment objects through video with STCN.

    Example: stcn-ttt infer --video clip.mp4 --mask first.png --output out
    """
