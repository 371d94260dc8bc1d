"""`rmem-deaot inspect`: which variant a checkpoint is."""

from __future__ import annotations

from pathlib import Path

import click

from rmem_deaot.config import VARIANTS
from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json


@click.command("inspect")
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def command(file: Path, as_json: bool) -> None:
    """Say which variant a checkpoint is, told by its keys, and how it remembers; check that it loads.

    Example: rmem-deaot inspect R50_DeAOTL_temp_pe_10wstep_80000.pth
    """
    from rmem_deaot.weights import load_network, variants_of

    network, name = load_network(file)
    variant = VARIANTS[name]
    others = [other for other in variants_of(network.config) if other != name]
    parameters = sum(parameter.numel() for parameter in network.parameters())
    if as_json:
        print_json({"file": str(file), "variant": name, "same_keys": others, "parameters": parameters, **variant.model_dump()})
        return
    bank = f"restricted to 1 + {variant.latter} frames" if variant.restrict else "not restricted"
    click.echo(f"{file} is {name}: {network.config.family} on {network.config.encoder}, {network.config.layers} layers")
    click.echo(f"{parameters / 1e6:.2f} M parameters; temporal positions: {'yes' if network.config.temporal_position else 'no'}")
    click.echo(f"memory as published: a frame every {variant.gap}, bank {bank}")
    if others:
        click.echo(f"{' and '.join(others)} have the same keys and another memory: choose with --variant")
