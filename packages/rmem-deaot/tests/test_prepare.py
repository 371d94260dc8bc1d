"""Sizes and pixels of the network's input, label maps to its size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rmem_deaot.prepare import View, input_size
from vos_core.testing import golden_cases


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "tables"))
def test_input_sizes(case, manifest):
    name, rows = next((key, rows) for key, rows in manifest(case["file"]).items() if key.startswith("resize_align"))
    max_long = float(name.split("max_long=")[1].rstrip(")"))
    for align, height, width, scale, max_short, *expected in rows:
        found = input_size(height, width, scale=scale, max_short=max_short, max_long=max_long, align_corners=bool(align))
        assert list(found) == expected, (align, height, width, scale)


def test_swin_sizes_are_multiples_of_16():
    assert input_size(480, 854, max_long=1040, align_corners=False) == (480, 848)
    assert input_size(5, 7, max_long=1040, align_corners=True) == (17, 17)
    assert input_size(5, 7, max_long=1040, align_corners=False) == (16, 16)


def test_images_are_normalised_and_mirrored_after_the_resize():
    rgb = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    plain, flipped = View((33, 49)).image(rgb), View((33, 49), flipped=True).image(rgb)
    assert torch.equal(plain.flip(3), flipped)
    assert plain.shape == (1, 3, 33, 49)
    same = View((40, 60)).image(rgb)
    expected = (rgb / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(same[0].permute(1, 2, 0), expected, atol=1e-5)


def test_labels_are_mirrored_before_the_nearest_resize():
    labels = torch.arange(10).view(1, 10).repeat(4, 1).int()
    assert View((4, 5)).labels(labels)[0].tolist() == [0, 2, 4, 6, 8]
    assert View((4, 5), flipped=True).labels(labels)[0].tolist() == [9, 7, 5, 3, 1]
