"""Comparison by the tolerance objects of the goldens: atol, rtol, of_max, share and max_abs, equal_share, mean_abs, exact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def assert_within(actual: npt.ArrayLike, expected: npt.ArrayLike, tolerance: Mapping[str, Any], *, label: str = "") -> None:
    """Fail with the largest difference unless `actual` agrees with `expected`.

    Args:
        actual: array to check; NaN agrees with NaN.
        expected: reference of the same shape.
        tolerance: `exact`; `equal_share` (share of equal entries); `mean_abs`; or
            |a - b| <= atol + rtol * |b| + of_max * max|b| everywhere; with `share`, for that share of the entries and
            within `max_abs` for all.
        label: names the array in the message.
    """
    a, b = np.asarray(actual), np.asarray(expected)
    assert a.shape == b.shape, f"{label}: shape {a.shape}, expected {b.shape}"
    if tolerance.get("exact"):
        np.testing.assert_array_equal(a, b, err_msg=label)
        return
    if "equal_share" in tolerance:
        share = float(np.mean(a == b)) if a.size else 1.0
        assert share >= tolerance["equal_share"], (
            f"{label}: {share:.6f} of the entries are equal, need {tolerance['equal_share']}"
        )
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    assert (np.isnan(a) == np.isnan(b)).all(), f"{label}: NaN in other places than expected"
    difference = np.nan_to_num(np.abs(a - b))
    if "mean_abs" in tolerance:
        assert difference.mean() <= tolerance["mean_abs"], f"{label}: mean difference {difference.mean():.3g}"
        return
    size = np.nan_to_num(np.abs(b))
    bound = (
        tolerance.get("atol", 0.0)
        + tolerance.get("rtol", 0.0) * size
        + tolerance.get("of_max", 0.0) * (size.max() if size.size else 0)
    )
    inside = difference <= bound
    worst = (
        f"{label}: largest difference {difference.max(initial=0.0):.3g}, {1 - inside.mean() if inside.size else 0:.4%} outside"
    )
    if "share" in tolerance:
        assert inside.mean() >= tolerance["share"], worst
        assert difference.max(initial=0.0) <= tolerance["max_abs"], worst
    else:
        assert inside.all(), worst
