"""Seeded networks and golden arrays for the tests of STCN."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from stcn_ttt.model import STCN
from vos_core.testing import GOLDENS, seeded_module

FOLDER = GOLDENS / "stcn-ttt"


@functools.cache
def _network(seed: int, rules_file: str, rules: str, single_object: bool) -> STCN:
    network = STCN(single_object=single_object)
    state = seeded_module().seeded_state(network, seed)
    for pattern, operation, number, *channels in json.loads((FOLDER / rules_file).read_text())[rules]:
        for key in filter(re.compile(pattern).fullmatch, state):
            part = state[key][:, channels[0] : channels[1]] if channels else state[key]
            part.mul_(number) if operation == "mul" else part.fill_(number)
    network.load_state_dict(state, strict=True)
    return network


@pytest.fixture(scope="session")
def golden_network() -> Callable[[Mapping[str, Any]], STCN]:
    """Builds the network that a case's `weights` entry describes; shared between tests, so leave it unchanged."""

    def build(weights: Mapping[str, Any]) -> STCN:
        single = _manifest(weights["keys_variant"])["value_encoder.conv1.weight"][0][1] == 4
        return _network(weights["seed"], weights["rules_file"], weights["rules"], single)

    return build


def _manifest(variant: str) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((FOLDER / f"{variant}.keys.json").read_text())
    return manifest


@pytest.fixture(scope="session")
def golden_arrays() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Reads an npz file of the goldens."""
    return lambda name: np.load(FOLDER / name)


@pytest.fixture(scope="session")
def manifest() -> Callable[[str], dict[str, Any]]:
    """Reads a key manifest of the goldens by variant."""
    return _manifest


@pytest.fixture(scope="session")
def random_network() -> STCN:
    """An untrained five-channel network whose keys do not drown the soft-max."""
    torch.manual_seed(0)
    return STCN()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
