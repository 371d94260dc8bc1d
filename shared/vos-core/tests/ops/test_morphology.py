from __future__ import annotations

import numpy as np
import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops.backend import use_backends
from vos_core.ops.morphology import boundary_map, dilate_disk, disk


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (7, 1), (9, 12)])
def test_boundary_is_a_window_that_is_not_constant(size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.6
    window = np.lib.stride_tricks.sliding_window_view(np.pad(mask.numpy(), ((0, 1), (0, 1)), mode="edge"), (2, 2))
    assert np.array_equal(boundary_map(mask), window.max((2, 3)) != window.min((2, 3)))


def test_boundary_of_batches_and_full_frames():
    masks = torch.rand(2, 3, 6, 5) < 0.5
    assert torch.equal(boundary_map(masks)[1, 2], boundary_map(masks[1, 2]))
    assert not boundary_map(torch.ones(5, 5)).any()


@pytest.mark.parametrize("backend", ["opencv", "torch"])
@pytest.mark.parametrize("radius", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("size", [(12, 15), (3, 40)])
def test_dilation_is_the_disk(backend, radius, size):
    masks = torch.rand(2, *size, generator=torch.Generator().manual_seed(2)) < 0.02
    rows, columns = np.indices(size)
    expected = np.zeros(masks.shape, bool)
    for index, row, column in masks.nonzero().tolist():
        expected[index] |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    with use_backends(f"morphology={backend}"):
        np.testing.assert_array_equal(dilate_disk(masks, radius), expected)


@pytest.mark.parametrize("backend", ["opencv", "torch"])
def test_no_masks_stay_no_masks(backend):
    with use_backends(f"morphology={backend}"):
        assert dilate_disk(torch.zeros(0, 4, 4), 3).shape == (0, 4, 4)


def test_disk_of_the_davis_radius():
    assert disk(8).sum() == 197
    with pytest.raises(UsageError, match="-1 pixels"):
        dilate_disk(torch.zeros(4, 4), -1)
