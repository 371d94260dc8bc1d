"""Fixtures of the tests of SAM 2; what tests call is in `sam2_cases.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode leaves it out

from sam2_cases import SMALL_TRUNK

from sam2_rcms.model import SAM2


@pytest.fixture(scope="session")
def small_network() -> SAM2:
    """An untrained reduced network whose masks are neither empty nor full; leave it unchanged."""
    torch.manual_seed(0)
    return SAM2("tiny", trunk=SMALL_TRUNK).eval()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
