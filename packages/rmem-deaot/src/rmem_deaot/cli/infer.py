"""`rmem-deaot infer`."""

from __future__ import annotations

from typing import Any

import click

from rmem_deaot import METHOD
from rmem_deaot.cli.options import rmem_options, take_rmem_options
from vos_core.cli.options import run_options
from vos_core.cli.run import execute


@click.command("infer")
@rmem_options
@run_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Follow objects through videos, folders of clips or data sets; write a mask per frame and run.json.

    The same as vos run --method rmem-deaot, with the original's option names. The keys of the weights tell the variant.
    Test-time augmentation: --ms or --scales takes factors, --flip adds mirrored copies; each copy keeps its own memory.

    Example: rmem-deaot infer --video clip.mp4 --mask first.png --output out
    """
    context.exit(execute(METHOD, **take_rmem_options(options)))
