"""`stcn-ttt convert`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vos_core.cli.options import json_option

_FILE = click.Path(path_type=Path)


@click.command("convert")
@click.argument("source", type=_FILE)
@click.argument("target", type=_FILE, required=False)
@click.option("--single-object", is_flag=True, help="Keep (and require) the 4 input channels of stage 0.")
@click.option(
    "--start",
    type=click.Choice(["zero", "orthogonal"]),
    default="zero",
    show_default=True,
    help="What a missing fifth input channel holds: zero to segment, orthogonal to begin the next stage of training.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the orthogonal channel.")
@json_option
def command(source: Path, target: Path | None, single_object: bool, start: str, seed: int, as_json: bool) -> None:
    """Check that SOURCE is an STCN checkpoint; write it to TARGET (.safetensors, .pth) ready to load.

    A stage-0 checkpoint has 4 input channels in its first convolution and gets a fifth. Without TARGET nothing is written.

    Example: stcn-ttt convert stcn_s0.pth stcn_s0.safetensors
    """
    import torch

    from stcn_ttt.weights import FIRST_CONV, fit_first_conv, manifest
    from vos_core.errors import WeightsError
    from vos_core.weights.cache import sha256_of
    from vos_core.weights.convert import save_state
    from vos_core.weights.load import load_state
    from vos_core.weights.manifest import manifest_diff, manifest_of

    state = load_state(source)
    torch.manual_seed(seed)
    fitted = fit_first_conv(state, single_object=single_object, source=str(source), start=start)
    difference = manifest_diff(manifest_of(fitted), manifest("stcn_s0" if single_object else "stcn"), floats_alike=True)
    if difference:
        raise WeightsError(f"{source} is no STCN checkpoint:\n{difference}", fix="Check that the file belongs to this method")
    if target is not None:
        metadata = {"source": source.name, "source_sha256": sha256_of(source)} if target.suffix == ".safetensors" else None
        save_state(target, fitted, metadata=metadata)
    channels, before = fitted[FIRST_CONV].shape[1], state[FIRST_CONV].shape[1]
    parameters = sum(value.numel() for key, value in fitted.items() if "running_" not in key and "num_batches" not in key)
    if as_json:
        result = {"keys": len(fitted), "parameters": parameters, "input_channels": channels, "found_channels": before}
        click.echo(json.dumps({**result, "target": None if target is None else str(target)}))
        return
    widened = f", widened from {before}" if channels != before else ""
    click.echo(f"{source}: {len(fitted)} keys, {parameters:,} parameters, {channels} input channels{widened}")
    if target is not None:
        click.echo(f"written to {target}")
