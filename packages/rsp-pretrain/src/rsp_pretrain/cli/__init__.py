"""The command `rsp-pretrain`; its parts are imported when they are asked for."""

from __future__ import annotations

import click

from rsp_pretrain.__about__ import __version__
from vos_core.cli.main import LazyGroup

COMMANDS = {
    "propagate": ("rsp_pretrain.cli.propagate", "Follow objects through videos by label propagation."),
    "davis": ("rsp_pretrain.cli.davis", "DAVIS label propagation: prepare 480x880, propagate, score."),
    "jhmdb": ("rsp_pretrain.cli.jhmdb", "JHMDB pose propagation and PCK."),
    "vip": ("rsp_pretrain.cli.vip", "VIP part propagation and mIoU."),
    "train": ("rsp_pretrain.cli.train", "Pre-train an encoder on videos."),
    "data": ("rsp_pretrain.cli.data", "Kinetics-400 from download to labels; any folder of videos."),
    "embed": ("rsp_pretrain.cli.embed", "Embed images or videos with the frozen encoder."),
    "probe": ("rsp_pretrain.cli.probe", "Clone behaviour from frozen embeddings in a simulator."),
    "visualize": ("rsp_pretrain.cli.visualize", "Pictures of attention, features, reconstructions and masks; one page."),
    "export": ("rsp_pretrain.cli.export", "Check a checkpoint; write its encoder alone."),
}


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rsp-pretrain")
def main() -> None:
    """Pre-train image encoders by stochastic frame prediction, propagate labels with them, probe them.

    Example: rsp-pretrain propagate --video clip.mp4 --mask first.png --output out
    """
