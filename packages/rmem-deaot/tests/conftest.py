"""Seeded networks, golden arrays and small untrained networks for the tests of AOT, DeAOT and RMem."""

from __future__ import annotations

import fnmatch
import functools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmem_deaot.config import VARIANTS
from rmem_deaot.model import AOTNetwork
from vos_core.testing import GOLDENS, seeded_module

sys.path.insert(0, str(Path(__file__).parent))  # for `rmem_goldens`, which several test files share

FOLDER = GOLDENS / "rmem-deaot"


@functools.cache
def arrays(name: str) -> Mapping[str, np.ndarray]:
    """Read an npz file of the goldens."""
    return np.load(FOLDER / name)


@functools.lru_cache(maxsize=2)
def _network(file: str, variant: str, seed: int, scales: str, override_keys: tuple[str, ...]) -> AOTNetwork:
    network = AOTNetwork(VARIANTS[variant].network)
    state = seeded_module().seeded_state(network, seed)
    for pattern, factor in json.loads(scales):
        for key, value in state.items():
            if value.is_floating_point() and fnmatch.fnmatchcase(key, pattern):
                value.mul_(factor)
    for key in override_keys:
        state[key] = torch.from_numpy(arrays(file)[f"override:{key}"])
    network.load_state_dict(state, strict=True)
    return network.eval()


@pytest.fixture(scope="session")
def golden_network() -> Callable[[Mapping[str, Any]], AOTNetwork]:
    """Builds the network that a case describes; shared between tests, so leave it unchanged (train steps copy it)."""

    def build(case: Mapping[str, Any]) -> AOTNetwork:
        return _network(
            case["file"], case["variant"], case["seed"], json.dumps(case["scales"]), tuple(case.get("override_keys", ()))
        )

    return build


@pytest.fixture(scope="session")
def golden_arrays() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Reads an npz file of the goldens."""
    return arrays


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict[str, Any]]:
    """Reads a JSON file of the goldens by name."""
    return lambda file: json.loads((FOLDER / file).read_text())


@pytest.fixture(scope="session")
def small_network() -> AOTNetwork:
    """An untrained network of the smallest variant."""
    torch.manual_seed(0)
    return AOTNetwork(VARIANTS["deaott"].network).eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
