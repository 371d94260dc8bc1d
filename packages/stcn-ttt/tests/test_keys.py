"""Every variant's keys, shapes and dtypes equal the official manifest."""

from __future__ import annotations

import pytest
import torch

from stcn_ttt.model import STCN
from vos_core.testing import golden_cases


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("stcn-ttt", "keys"))
def test_keys_equal_manifest(case, manifest):
    with torch.device("meta"):
        network = STCN(single_object=case["single_object"])
    found = {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in network.state_dict().items()}
    assert found == manifest(case["variant"])


def test_size_and_norms():
    network = STCN()
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_434_180
    assert len(network.state_dict()) == 405
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) == 58
    network.train()
    assert not any(norm.training for norm in norms), "running statistics must never move"
