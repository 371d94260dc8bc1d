"""The command `object-pursuit`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from object_pursuit.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS: dict[str, tuple[str, str]] = {
    "infer": ("object_pursuit.cli.infer", "Follow objects through videos, folders of clips or data sets."),
    "pursue": ("object_pursuit.cli.pursue", "Meet a stream of objects: recognise, express or learn each."),
    "evaluate": ("object_pursuit.cli.evaluate", "Score every code of a pursuit."),
    "pretrain": ("object_pursuit.cli.pretrain", "Learn codes of many objects, hypernetwork and encoder jointly."),
    "oneshot": ("object_pursuit.cli.oneshot", "Fit a network to the first images of a sequence and score it."),
    "remove-redundancy": ("object_pursuit.cli.remove_redundancy", "Drop bases that the others can express."),
    "segment": ("object_pursuit.cli.segment", "Find objects whose codes are known in a video, without a mask."),
    "reid": ("object_pursuit.cli.reid", "Say which known code claims each object of a data set."),
    "experiment": ("object_pursuit.cli.experiment", "Check the method's claims on a stream of drawn objects; write a page."),
    "explore": ("object_pursuit.cli.explore", "Draw the space of codes: places, neighbours, masks in between."),
    "gen-bases": ("object_pursuit.cli.gen_bases", "Write the bases of a joint checkpoint as files."),
    "inspect": ("object_pursuit.cli.inspect", "Say what a checkpoint, a code or a pursuit holds."),
    "synth-data": ("object_pursuit.cli.synth_data", "Draw objects with exact masks to try everything with."),
    "collect-thor": ("object_pursuit.cli.collect_thor", "Collect iThor data from the AI2-THOR simulator."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="object-pursuit")
def main() -> None:
    """Learn a growing space of objects, and segment each of them in any image.

    Example: object-pursuit infer --video clip.mp4 --mask first.png --output out
    """
