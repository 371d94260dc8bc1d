from __future__ import annotations

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops.pad import pad_to_multiple, pads_to_multiple, unpad


@pytest.mark.parametrize(
    ("size", "multiple", "expected"),
    [((480, 854), 16, (5, 5, 0, 0)), ((120, 214), 16, (5, 5, 4, 4)), ((33, 31), 16, (0, 1, 7, 8)), ((32, 48), 16, (0, 0, 0, 0))],
)
def test_pads_split_evenly_with_the_odd_pixel_right_and_below(size, multiple, expected):
    assert pads_to_multiple(*size, multiple) == expected


@pytest.mark.parametrize("shape", [(5, 7), (3, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.bool])
def test_padding_is_undone(shape, dtype):
    x = (torch.rand(shape) * 200).to(dtype)
    padded, pads = pad_to_multiple(x, 4, value=1.0)
    assert padded.shape[-2] % 4 == 0
    assert padded.shape[-1] % 4 == 0
    assert torch.equal(unpad(padded, pads), x)
    assert padded[..., 0, -1].eq(torch.ones((), dtype=dtype)).all()


def test_nothing_is_copied_when_the_size_fits():
    x = torch.rand(8, 8)
    assert pad_to_multiple(x, 4)[0] is x


def test_a_multiple_below_one_is_refused():
    with pytest.raises(UsageError, match="multiple of 0"):
        pad_to_multiple(torch.rand(8, 8), 0)
