"""Seeded networks and golden arrays for the tests of RSP."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from rsp_pretrain.config import Architecture, Objective
from rsp_pretrain.model import RSP, Encoder, build_backbone, build_rsp
from vos_core.testing import GOLDENS, seeded_module

FOLDER = GOLDENS / "rsp-pretrain"
TINY = Architecture(patch=16, dim=32, depth=2, heads=2, decoder_dim=32, decoder_depth=2, decoder_heads=2, image_size=64)
"""A network that a unit test can afford."""


@functools.lru_cache(maxsize=4)
def _rsp(variant: str, seed: int, options: str, image_size: int) -> RSP:
    model = build_rsp(variant, image_size=image_size, **json.loads(options))
    model.load_state_dict(seeded_module().seeded_state(model, seed), strict=True)
    return model.eval()


@functools.lru_cache(maxsize=4)
def _backbone(variant: str, backbone: str, seed: int) -> Encoder:
    model = build_rsp(variant)
    encoder = build_backbone(backbone, patch=model.patch)
    state = seeded_module().seeded_state(model, seed)
    encoder.load_state_dict({key: state[key] for key in encoder.state_dict()}, strict=True)
    return encoder.eval()


@pytest.fixture(scope="session")
def seeded_rsp() -> Callable[..., RSP]:
    """Builds the network of a case from (variant, seed, options, image size); shared between tests, so leave it unchanged."""
    return lambda variant, seed, options=None, size=224: _rsp(variant, seed, json.dumps(options or {}, sort_keys=True), size)


@pytest.fixture(scope="session")
def seeded_backbone() -> Callable[[Mapping[str, Any]], Encoder]:
    """Builds the evaluation backbone of a case (variant, backbone, seed); shared between tests."""
    return lambda case: _backbone(case["variant"], case["backbone"], case["seed"])


@pytest.fixture(scope="session")
def golden_arrays() -> Callable[[str], Mapping[str, np.ndarray]]:
    """Reads an npz file of the goldens."""
    return lambda name: np.load(FOLDER / name)


@pytest.fixture(scope="session")
def golden_json() -> Callable[[str], Any]:
    """Reads a JSON file of the goldens."""
    return lambda name: json.loads((FOLDER / name).read_text())


@pytest.fixture
def tiny() -> Callable[..., RSP]:
    """Builds a small seeded network; keywords are those of the objective."""

    def build(**options: Any) -> RSP:
        torch.manual_seed(0)
        return RSP(TINY, Objective(**options))

    return build


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
