"""The authors' checkpoints: where they are, what keys they have, and how the stage-0 one fits the multi-object network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vos_core.errors import WeightsError
from vos_core.weights.manifest import Manifest, read_manifest
from vos_core.weights.registry import WeightsEntry
from vos_core.weights.registry import register as _register_entry

if TYPE_CHECKING:
    from torch import Tensor

    from stcn_ttt.model import STCN

METHOD_NAME = "stcn-ttt"
NAMES = ("stcn", "stcn_s03", "stcn_s01", "stcn_s0")
"""Released checkpoints, the best one first."""
FIRST_CONV = "value_encoder.conv1.weight"
"""The one tensor that differs: 5 input channels, or 4 after stage 0 (no channel for the other objects)."""

_RELEASE = "https://github.com/hkchengrex/STCN/releases/download/1.0"
_URLS = {
    "stcn": "gdrive:1mRrE0uCI2ktdWlUgapJI_KmgeIiF2eOm",
    "stcn_s03": "gdrive:1JllXPJZola0G-g1aUQfXe9nLMBioj-aH",
    "stcn_s01": f"{_RELEASE}/stcn_s01.pth",
    "stcn_s0": f"{_RELEASE}/stcn_s0.pth",
}
_NOTES = {
    "stcn": "static images, BL30K, then DAVIS and YouTube-VOS: 85.3 J&F on DAVIS 2017 val as published",
    "stcn_s03": "static images, then DAVIS and YouTube-VOS (no synthetic stage): about 85.4 on DAVIS 2017 val as published",
    "stcn_s01": "static images and BL30K only: the start of sim-to-real test-time training",
    "stcn_s0": "static images only; its first convolution has 4 input channels and gets a fifth, zero, when loaded",
}


def manifest(name: str) -> Manifest:
    """Return key -> (shape, dtype) of a released checkpoint."""
    specs = read_manifest(Path(__file__).with_name("stcn.keys.json"))
    if name == "stcn_s0":
        shape, dtype = specs[FIRST_CONV]
        specs[FIRST_CONV] = ((shape[0], 4, *shape[2:]), dtype)
    return specs


def register() -> None:
    """Add the released checkpoints to the registry of weights."""
    for name in NAMES:
        _register_entry(
            WeightsEntry(
                name=name,
                method=METHOD_NAME,
                url=_URLS[name],
                licence="MIT",
                source="https://github.com/hkchengrex/STCN",
                manifest=manifest(name),
                notes=_NOTES[name],
            )
        )


def fit_first_conv(state: dict[str, Tensor], *, single_object: bool, source: str, start: str = "zero") -> dict[str, Tensor]:
    """Return `state` with the first convolution of the value encoder widened to what the network has.

    Args:
        state: key -> tensor; stays as it is.
        single_object: whether the network is the 4-channel form.
        source: the file, for errors.
        start: `zero` for inference and test-time training, so that results do not depend on chance; `orthogonal` for offline
            training.

    Raises:
        WeightsError: 5 channels into the 4-channel form, which would drop what was learned about other objects.
    """
    import torch

    weight = state.get(FIRST_CONV)
    if weight is None or weight.ndim != 4:
        return state
    if single_object and weight.shape[1] == 5:
        raise WeightsError(
            f"{source} was trained with several objects (5 input channels in {FIRST_CONV})",
            expected="a stage-0 checkpoint with 4 input channels",
            fix="Use the multi-object network; dropping the channel would change its results",
        )
    if single_object or weight.shape[1] != 4:
        return state
    extra = torch.zeros_like(weight[:, :1])
    if start == "orthogonal":
        torch.nn.init.orthogonal_(extra)
    return {**state, FIRST_CONV: torch.cat((weight, extra), 1)}


def load_network(path: Path | None, *, single_object: bool = False, seed: int = 0) -> STCN:
    """Return a network with the weights of a checkpoint file, or seeded untrained ones.

    Args:
        path: a flat state dict (`.pth`, `.safetensors`); None = untrained.
        single_object: build the 4-channel form.
        seed: for untrained weights.

    Raises:
        WeightsError: the file cannot be read or does not fit.
    """
    import torch

    from stcn_ttt.model import STCN
    from vos_core.weights.load import load_state
    from vos_core.weights.strict import load_strict

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = STCN(single_object=single_object)
    if path is not None:
        state = fit_first_conv(load_state(path), single_object=single_object, source=str(path))
        load_strict(network, state, source=str(path))
    return network
