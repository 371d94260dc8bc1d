import numpy as np
import pytest

from vos_core.testing import assert_within

ONES = np.ones(100)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        (0.0, {"exact": True}),
        (0.01, {"atol": 0.011}),
        (0.01, {"rtol": 0.011}),
        (0.01, {"of_max": 0.011}),
        (0.01, {"atol": 0.001, "share": 0.99, "max_abs": 0.02}),
        (0.01, {"equal_share": 0.99}),
        (0.01, {"mean_abs": 0.001}),
    ],
)
def test_inside_passes_and_twice_the_change_on_twice_the_entries_fails(change: float, tolerance: dict[str, float]) -> None:
    near, far = ONES.copy(), ONES.copy()
    near[0] += change
    far[:20] += 2 * change + 1e-9
    assert_within(near, ONES, tolerance)
    with pytest.raises(AssertionError):
        assert_within(far, ONES, tolerance)


def test_shapes_and_nans_must_agree() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_within(ONES, ONES[None], {"atol": 1})
    with pytest.raises(AssertionError, match="NaN"):
        assert_within([np.nan, 1.0], [1.0, 1.0], {"atol": 1})
    assert_within([np.nan, 1.0], [np.nan, 1.0], {"atol": 0})


def test_one_value_beyond_max_abs_fails_whatever_the_share() -> None:
    far = ONES.copy()
    far[0] += 1
    with pytest.raises(AssertionError):
        assert_within(far, ONES, {"atol": 0.1, "share": 0.5, "max_abs": 0.5})
