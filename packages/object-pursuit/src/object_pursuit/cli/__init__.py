"""The command `object-pursuit`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from object_pursuit.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("object_pursuit.cli.infer", "Follow objects through videos, folders of clips or data sets."),
    "explore": ("object_pursuit.cli.explore", "Draw the space of codes: places, neighbours, masks in between."),
    "synth-data": ("object_pursuit.cli.synth_data", "Draw objects with exact masks to try everything with."),
    "collect-thor": ("object_pursuit.cli.collect_thor", "Collect iThor data from the AI2-THOR simulator."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="object-pursuit")
def main() -> None:
    """Learn a growing space of objects, and segment each of them in any image.

    Example: object-pursuit synth-data objects && object-pursuit pursue --preset tiny --data objects --out run
    """
