"""Hole filling and the components under it against the goldens: exact equality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2_cases import check, golden_arrays

from vos_core.ops.components import FILL_SCORE, connected_components, fill_holes
from vos_core.testing import golden_cases

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "fill_holes"))
def test_fill_holes(case):
    gold = golden_arrays(case["file"])
    assert (case["connectivity"], case["background_max"], case["fill_value"]) == (8, 0.0, FILL_SCORE)
    scores = torch.from_numpy(gold["mask"])
    components = connected_components(scores <= case["background_max"])
    np.testing.assert_array_equal(components.labels.reshape(gold["labels"].shape), gold["labels"])
    np.testing.assert_array_equal(components.areas.reshape(gold["counts"].shape), gold["counts"])
    for run in case["runs"]:
        filled = fill_holes(scores, run["max_area"]).reshape(gold[run["array"]].shape)
        check(filled, gold[run["array"]], case["tol"]["arrays"], run["array"])
