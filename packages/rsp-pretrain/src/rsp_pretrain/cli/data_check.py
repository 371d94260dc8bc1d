"""`rsp-pretrain data check`."""

from __future__ import annotations

from pathlib import Path

import click

from rsp_pretrain.cli.data_options import datadir_option, step_options
from vos_core.cli.printing import print_json


@click.command("check")
@datadir_option
@click.option("--decode", type=click.IntRange(0), default=0, show_default=True, help="Listed videos to decode, at random.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of that draw.")
@step_options
@click.pass_context
def command(context: click.Context, /, datadir: Path, decode: int, seed: int, dry_run: bool, as_json: bool) -> None:
    """Say how far each step of Kinetics-400 is and what is missing. Leaves with 1 if anything is. Changes nothing.

    With --dry-run it decodes nothing either, but says what it would.

    Example: rsp-pretrain data check --datadir /data/kinetics400 --decode 100
    """
    from rsp_pretrain.kinetics.check import check

    state = check(datadir, decode=0 if dry_run else decode, seed=seed)
    if dry_run and decode:
        state.counts["to decode"] = min(decode, state.counts.get("labels", 0) - state.counts.get("labels without video", 0))
    if as_json:
        print_json({"counts": state.counts, "problems": [{"found": found, "fix": fix} for found, fix in state.problems]})
    else:
        for name, count in state.counts.items():
            click.echo(f"{name}: {count}")
        for found, fix in state.problems:
            click.echo(f"{found}. {fix}.", err=True)
    context.exit(1 if state.problems else 0)
