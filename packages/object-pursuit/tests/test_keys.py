"""Every file kind's keys, shapes and dtypes equal the official manifest, and every kind of golden has a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from object_pursuit.config import PRESETS
from object_pursuit.model import build_encoder, build_hypernet
from vos_core.testing import GOLDENS, golden_cases

FOLDER = GOLDENS / "object-pursuit"
WRAPPED = {"encoder": "module."}


def described(state):
    return {key: [list(value.shape), str(value.dtype).removeprefix("torch.")] for key, value in state.items()}


def state_of(case, golden_module):
    """Return what a file of the case's kind holds."""
    kind = case["module"]
    if kind == "pursuit_code":
        return {"z": golden_module({**case, "tensors": {}, "encoder": False}, "singlenet").z}
    if kind == "pursuit_coeffs":
        sized = {**case, "tensors": {}, "encoder": False, "z_dim": case.get("z_dim", 4)}
        return {"coeffs": golden_module(sized, "coeffnet").coeffs}
    if kind == "code_file":
        hypernet = golden_module(case, "hypernet")
        z = torch.zeros(case["z_dim"], device="meta")
        return {"z": z, **{f"weights/{name}": value for name, value in hypernet(z).items()}}
    prefix = WRAPPED.get(kind, "")
    return {prefix + key: value for key, value in golden_module(case, kind).state_dict().items()}


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("object-pursuit", "keys"))
def test_keys_equal_manifest(case, golden_module):
    with torch.device("meta"):
        found = described(state_of(case, golden_module))
    assert found == json.loads((FOLDER / case["file"]).read_text())


@pytest.mark.parity
def test_every_kind_of_golden_has_a_test():
    path = FOLDER / "cases.json"
    if not path.is_file():
        pytest.skip(f"no goldens at {path}")
    tested = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for call in re.findall(r'golden_cases\("object-pursuit"([^)]*)\)', file.read_text()):
            tested |= set(re.findall(r'"(\w+)"', call))
    assert {case["kind"] for case in json.loads(path.read_text())} <= tested


@pytest.mark.parametrize(("preset", "count"), [("backbone", 3_990_683), ("full", 16_748_702)])
def test_published_sizes(preset, count):
    with torch.device("meta"):
        hypernet = build_hypernet(PRESETS[preset])
    assert sum(parameter.numel() for parameter in hypernet.parameters()) == count


def test_the_tiny_preset_is_small():
    parts = (build_hypernet(PRESETS["tiny"]), build_encoder(PRESETS["tiny"]))
    assert sum(parameter.numel() for part in parts for parameter in part.parameters()) < 400_000
