"""`rsp-pretrain probe tasks`."""

from __future__ import annotations

from dataclasses import asdict

import click

from rsp_pretrain.robot.tasks import TASKS
from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json


@click.command("tasks")
@json_option
def command(as_json: bool) -> None:
    """List the tasks of published tables: simulator, demonstrations, seeds, and what cannot be repeated here and why.

    Example: rsp-pretrain probe tasks
    """
    if as_json:
        print_json({name: asdict(task) for name, task in TASKS.items()})
        return
    for name, task in TASKS.items():
        click.echo(f"{name:<30} {task.simulator}, camera {task.camera}, {task.demos} demonstrations, {len(task.seeds)} seeds")
    click.echo()
    for obstacle in dict.fromkeys(task.obstacle for task in TASKS.values()):
        names = [name for name, task in TASKS.items() if task.obstacle == obstacle]
        click.echo(f"{names[0].partition('-')[0]}: {obstacle}.")
