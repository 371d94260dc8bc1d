"""`stcn-ttt save-config`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from stcn_ttt.cli.ttt_options import given_ttt_options, ttt_options


@click.command("save-config")
@click.option("--base", metavar="NAME", help="Released configuration to begin from [default: the defaults].")
@click.option(
    "--output", "folder", type=click.Path(path_type=Path), default=Path("ttt_configs"), show_default=True, help="Folder."
)
@ttt_options
@click.pass_context
def command(context: click.Context, /, base: str | None, folder: Path, **options: Any) -> None:
    """Write a test-time training configuration as a YAML file that --config reads.

    Example: stcn-ttt save-config --config_name mine --ttt_loss tt-ent --ttt_frozen_layers net,ubn
    """
    from stcn_ttt.adapt.config import load_config, save_config

    config = load_config(base, options=given_ttt_options(context, options))
    path = folder / f"{config.config_name}.yaml"
    save_config(config, path)
    click.echo(str(path))
