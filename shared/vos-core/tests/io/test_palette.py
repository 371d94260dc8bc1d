from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vos_core.io.palette import AOT_PALETTE, DAVIS_PALETTE
from vos_core.testing import GOLDENS, assert_within, golden_cases

TABLES = {"davis": DAVIS_PALETTE, "aot": AOT_PALETTE}


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("vos-core", "palette"))
def test_palette_equals_golden(case: dict[str, Any]) -> None:
    expected = json.loads((GOLDENS / "vos-core" / case["expected"]["file"]).read_text())
    for key in case["expected"]["path"]:
        expected = expected[key]
    assert_within(TABLES[case["name"]][: case["entries"]], expected, case["tolerance"])


def test_first_davis_entries() -> None:
    expected = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128),
        (128, 0, 128), (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0),
    ]  # fmt: skip
    assert [tuple(row) for row in DAVIS_PALETTE[:10].tolist()] == expected
    assert len({tuple(row) for row in DAVIS_PALETTE.tolist()}) == 256


def test_aot_palette_is_davis_with_191_then_grey() -> None:
    head = DAVIS_PALETTE[:22].copy()
    head[head == 192] = 191
    np.testing.assert_array_equal(AOT_PALETTE[:22], head)
    assert 191 in AOT_PALETTE[:22]
    np.testing.assert_array_equal(AOT_PALETTE[22:], np.arange(22, 256)[:, None].repeat(3, axis=1))


def test_palettes_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        DAVIS_PALETTE[0] = 1
