"""Every size's keys, shapes, dtypes and order equal the official manifest."""

from __future__ import annotations

import json

import pytest
import torch
from sam2_cases import FOLDER

from sam2_rcms.config import TRUNKS
from sam2_rcms.model import SAM2
from sam2_rcms.weights import manifest
from vos_core.testing import golden_cases

PARAMETERS = {"tiny": 38_962_498, "small": 46_060_354, "base_plus": 80_850_178, "large": 224_446_642}


def _specs(size):
    with torch.device("meta"):
        network = SAM2(size)
    return {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in network.state_dict().items()}


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "keys"))
def test_keys_equal_manifest(case):
    found = _specs(case["variant"])
    assert found == json.loads((FOLDER / case["file"]).read_text())
    assert list(found) == list(json.loads((FOLDER / case["file"]).read_text())), "optimiser states count on the order"


@pytest.mark.parametrize("size", TRUNKS)
def test_size_and_own_manifest(size):
    with torch.device("meta"):
        network = SAM2(size)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[size]
    assert {key: [list(shape), dtype] for key, (shape, dtype) in manifest(size).items()} == _specs(size)
