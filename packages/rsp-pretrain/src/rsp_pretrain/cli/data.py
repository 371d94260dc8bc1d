"""`rsp-pretrain data`: the group; each step is a file of its own."""

from __future__ import annotations

import click

from vos_core.cli.main import LazyGroup

COMMANDS = {
    "download": ("rsp_pretrain.cli.data_download", "Kinetics-400: fetch archives, replacements and annotations."),
    "extract": ("rsp_pretrain.cli.data_extract", "Kinetics-400: unpack the archives."),
    "arrange": ("rsp_pretrain.cli.data_arrange", "Kinetics-400: sort videos into class folders."),
    "rescale": ("rsp_pretrain.cli.data_rescale", "Kinetics-400: write copies with a short side of 256 pixels."),
    "labels": ("rsp_pretrain.cli.data_labels", "Kinetics-400: decode every video and write the label list."),
    "check": ("rsp_pretrain.cli.data_check", "Kinetics-400: say how far each step is and what is missing."),
    "frames": ("rsp_pretrain.cli.data_frames", "Any videos: write their frames as JPEG files."),
    "davis-download": ("rsp_pretrain.cli.data_davis_download", "DAVIS: fetch the 480p set."),
    "davis-480-880": ("vos_core.cli.data_davis_480_880", "DAVIS: resize to 880x480 as published label propagation does."),
}


@click.group("data", cls=LazyGroup, commands_table=COMMANDS)
def command() -> None:
    """Prepare data. Every step goes on where it stopped, and says with --dry-run what it would do.

    Example: rsp-pretrain data download --datadir /data/kinetics400 --dry-run
    """
