"""Every variant's keys, shapes and dtypes equal the released checkpoints', and the goldens hold no kind without a test."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

from rmem_deaot.config import VARIANTS
from rmem_deaot.model import AOTNetwork
from rmem_deaot.weights import detect_variant
from vos_core.testing import GOLDENS, golden_cases
from vos_core.weights import manifest_diff, manifest_of

MILLIONS = {
    "aott": 5.73,
    "aots": 7.00,
    "aotb": 8.26,
    "aotl": 8.26,
    "r50_aotl": 14.91,
    "swinb_aotl": 65.40,
    "deaott": 7.24,
    "deaots": 10.20,
    "deaotb": 13.17,
    "deaotl": 13.17,
    "r50_deaotl": 19.82,
    "swinb_deaotl": 70.30,
    "r50_deaotl_rmem": 19.82,
    "r50_deaotl_vost": 19.89,
    "r50_aotl_vost": 15.23,
}
"""Parameters of the public zoo's networks (spec section 2)."""


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "keys"))
def test_keys_shapes_and_dtypes(case, manifest):
    specs = {key: (tuple(shape), dtype) for key, (shape, dtype) in manifest(case["file"]).items()}
    assert len(specs) == case["entries"]
    state = AOTNetwork(VARIANTS[case["variant"]].network).state_dict()
    difference = manifest_diff(manifest_of(state), specs)
    assert not difference, str(difference)
    found = detect_variant(state, source=f"{case['variant']}.pth")
    assert found == case["variant"], "keys (and, for B and L, the name) tell the variant"


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "clip"))
def test_clips_are_whole(case, golden_arrays):
    clip = golden_arrays(case["file"])
    assert clip["frames"].shape == (case["frames"], case["height"], case["width"], 3)
    assert int(clip["mask0"].max()) == case["objects"]
    assert zlib.crc32(clip["frames"].tobytes()) == case["frames_crc32"]
    assert zlib.crc32(clip["mask0"].tobytes()) == case["mask0_crc32"]


@pytest.mark.parity
def test_every_kind_of_golden_has_a_test():
    path = GOLDENS / "rmem-deaot" / "cases.json"
    if not path.is_file():
        pytest.skip(f"no goldens at {path}")
    kinds = {case["kind"] for case in json.loads(path.read_text())}
    source = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    calls = [part.split(")")[0] for part in source.split('golden_cases("rmem-deaot"')[1:]]
    untested = {kind for kind in kinds if not any(f'"{kind}"' in call for call in calls)}
    assert not untested, f"goldens of kinds {sorted(untested)} are compared with nothing"


@pytest.mark.parametrize("variant", MILLIONS)
def test_sizes_are_those_of_the_public_zoo(variant):
    network = AOTNetwork(VARIANTS[variant].network)
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert count == pytest.approx(MILLIONS[variant], abs=0.006)
