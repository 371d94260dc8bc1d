from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch

from vos_core.errors import UsageError
from vos_core.ops.components import FILL_SCORE, connected_components, fill_holes


def slow(mask):
    """Labels by another library, renamed by the rule."""
    height, width = mask.shape
    index, count = scipy.ndimage.label(mask, np.ones((3, 3)))
    rows, columns = np.indices(mask.shape)
    origin = 2 * (rows // 2) * width + 2 * (columns // 2)
    labels, areas = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    for component in range(1, count + 1):
        inside = index == component
        labels[inside], areas[inside] = 1 + origin[inside].min(), inside.sum()
    return labels, areas


@pytest.mark.parametrize("density", [0.0, 0.2, 0.4, 0.6, 1.0])
@pytest.mark.parametrize("size", [(16, 20), (15, 21), (1, 1), (2, 9)])
def test_labels_and_areas(density, size):
    masks = torch.rand(3, 1, *size, generator=torch.Generator().manual_seed(0)) < density
    found = connected_components(masks)
    assert found.labels.dtype == found.areas.dtype == torch.int32
    for index in range(3):
        labels, areas = slow(masks[index, 0].numpy())
        np.testing.assert_array_equal(found.labels[index, 0], labels)
        np.testing.assert_array_equal(found.areas[index, 0], areas)


def test_no_masks():
    assert connected_components(torch.zeros(0, 1, 4, 4)).labels.shape == (0, 1, 4, 4)


def test_small_holes_are_filled_and_large_ones_stay():
    scores = torch.full((1, 1, 12, 12), 5.0)
    scores[0, 0, 2:4, 2:4], scores[0, 0, 6:9, 6:9] = -3, 0
    filled = fill_holes(scores, 4)
    assert (filled[0, 0, 2:4, 2:4] == FILL_SCORE).all()
    assert (filled[0, 0, 6:9, 6:9] == 0).all()
    assert (filled == scores).sum() == 140
    assert torch.equal(fill_holes(scores, 0), scores)


def test_shape_is_checked():
    with pytest.raises(UsageError, match=r"\(4, 4\)"):
        connected_components(torch.zeros(4, 4))
