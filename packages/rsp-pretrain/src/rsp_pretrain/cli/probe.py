"""`rsp-pretrain probe`: the group; each command is a file of its own."""

from __future__ import annotations

import click

from vos_core.cli.main import LazyGroup

COMMANDS = {
    "collect": ("rsp_pretrain.cli.probe_collect", "Write demonstrations of an expert in a simulator."),
    "clone": ("rsp_pretrain.cli.probe_clone", "Clone demonstrations from frozen embeddings and roll the policy out."),
    "tasks": ("rsp_pretrain.cli.probe_tasks", "List the published tasks: settings, and what cannot be repeated and why."),
}


@click.group("probe", cls=LazyGroup, commands_table=COMMANDS)
def command() -> None:
    """Judge a frozen encoder by behaviour cloning. Needs the extra rsp-pretrain[robot].

    Example: rsp-pretrain probe collect --env FetchReach-v4 --episodes 25 --output demos.npz
    """
