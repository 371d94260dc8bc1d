"""`stcn-ttt infer`."""

from __future__ import annotations

from typing import Any

import click

from stcn_ttt import METHOD
from stcn_ttt.cli.options import stcn_options, take_stcn_options
from vos_core.cli.options import run_options
from vos_core.cli.run import execute


@click.command("infer")
@stcn_options
@run_options
@click.pass_context
def command(context: click.Context, /, **options: Any) -> None:
    """Follow objects through videos, folders of clips or data sets; write a mask per frame and run.json.

    The same as vos run --method stcn-ttt, with the original's option names. Test-time augmentation: --scales takes shorter
    sides, of which 600 and more read with a kernel as published, or factors of --res; --flip adds mirrored runs.

    Example: stcn-ttt infer --video clip.mp4 --mask first.png --weights stcn.pth --output out
    """
    context.exit(execute(METHOD, **take_stcn_options(options)))
