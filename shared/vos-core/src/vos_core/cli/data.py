"""`vos data`: check, convert and generate data sets."""

from __future__ import annotations

import click

from vos_core.cli.main import LazyGroup

COMMANDS = {
    "check": ("vos_core.cli.data_check", "List what is missing or malformed in a data set, with a fix for each."),
    "davis-480-880": ("vos_core.cli.data_davis_480_880", "Write DAVIS resized to 880x480, as label propagation results use it."),
    "lvos-convert": ("vos_core.cli.data_lvos_convert", "Write masks that show each object in its first frame only."),
    "ytvos-480p": ("vos_core.cli.data_ytvos_480p", "Write YouTube-VOS training data with a short side of 480."),
    "synth": ("vos_core.cli.data_synth", "Generate clips with exact ground truth."),
}


@click.group("data", cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Check, convert and generate data sets.

    Example: vos data check davis /data/DAVIS --split val
    """
