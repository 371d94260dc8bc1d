"""What the fields of the goldens' cases mean: forms of an output and tolerances (goldens README); as fixtures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

Array = npt.NDArray[Any]


def _shaped(value: Array, output: Mapping[str, Any]) -> Array:
    """Return `value` in the `form` that an output entry stores."""
    form = output["form"]
    if form == "whole":
        return value
    if form == "stats":
        wide = value.astype(np.float64)
        return np.array([wide.mean(), wide.std(), wide.min(), wide.max()])
    if form == "strided":
        picked = value[:, output["channel"]] if "channel" in output else value
        return picked[tuple(slice(None, None, stride) for stride in output["strides"])]
    if form == "packed_bits":
        return np.packbits(value.astype(bool))
    if form == "fraction":
        return value.astype(np.float64).reshape(len(value), -1).mean(1)
    if form == "round255_u8":
        return np.round(value * 255).astype(np.uint8)
    assert form == "truncate_u8", form
    return value.astype(np.uint8)


def _assert_as_stored(actual: Array, golden: Array, output: Mapping[str, Any]) -> None:
    """Fail unless `actual`, already in its form, agrees with the golden array by the entry's tolerance."""
    name = output["array"]
    a, b = np.asarray(actual), np.asarray(golden)
    a = a.reshape(b.shape) if a.size == b.size else a
    assert a.shape == b.shape, f"{name}: shape {a.shape}, expected {b.shape}"
    if "min_agreement" in output:
        count = int(np.prod(output["shape"]))
        equal = (np.unpackbits(a)[:count] == np.unpackbits(b)[:count]).mean()
        assert equal >= output["min_agreement"], f"{name}: {equal:.6f} of the pixels agree, need {output['min_agreement']}"
        return
    a, b = a.astype(np.float64), b.astype(np.float64)
    for rows in output.get("steps", [...]):
        x, y = a[rows], b[rows]
        size = np.abs(y)
        bound = (
            output.get("atol", 0.0)
            + output.get("rtol", 0.0) * size
            + output.get("max_rel", 0.0) * size.max(initial=0.0)
            + output.get("std_rel", 0.0) * (y.std() if y.size else 0.0)
        )
        difference = np.abs(x - y)
        assert np.isfinite(x).all(), f"{name}[{rows}]: not finite"
        assert (difference <= bound).all(), (
            f"{name}[{rows}]: largest difference {difference.max():.3g}, "
            f"{np.max(difference / np.maximum(bound, 1e-30)):.2f} of what is allowed"
        )


@pytest.fixture(scope="session")
def shaped() -> Callable[..., Array]:
    """`shaped(value, output)`: the array in the `form` that an output entry stores."""
    return _shaped


@pytest.fixture(scope="session")
def assert_as_stored() -> Callable[..., None]:
    """`assert_as_stored(actual, golden, entry)`: fails unless they agree by the tolerance of an output or compare entry."""
    return _assert_as_stored


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
