from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from vos_core.errors import MaskError
from vos_core.io.labels import dense_ids, merge_objects, nearest_resize, original_ids, present_ids, remap_ids

MAPS = hnp.arrays(
    st.sampled_from([np.uint8, np.uint16]), hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 255)
)


@given(MAPS)
def test_present_ids_are_those_of_a_sort(labels: np.ndarray) -> None:
    assert present_ids(labels) == [value for value in np.unique(labels).tolist() if value]
    assert present_ids(labels, void=255) == [value for value in np.unique(labels).tolist() if value not in (0, 255)]


def test_present_ids_of_large_ids_and_of_void_one() -> None:
    assert present_ids(np.array([[0, 300], [65535, 300]], np.uint16)) == [300, 65535]
    assert present_ids(np.ones((2, 2), np.uint8), void=1) == []


@given(MAPS)
def test_dense_and_back(labels: np.ndarray) -> None:
    dense, ids = dense_ids(labels)
    assert present_ids(dense) == list(range(1, len(ids) + 1))
    np.testing.assert_array_equal(original_ids(dense, ids), np.where(labels == 255, 0, labels))


def test_remap() -> None:
    labels = np.array([[0, 2], [5, 9]], np.uint8)
    assert remap_ids(labels, {2: 300, 5: 1, 77: 3}).tolist() == [[0, 300], [1, 0]]
    with pytest.raises(MaskError, match="65536"):
        remap_ids(labels, {2: 65536})


def test_lowest_id_wins() -> None:
    masks = {3: np.array([[1, 1, 0]], bool), 2: np.array([[0, 1, 0]], bool), 300: np.array([[1, 1, 1]], bool)}
    assert merge_objects(masks).tolist() == [[3, 2, 300]]
    for wrong in ({}, {0: masks[2]}, {70000: masks[2]}):
        with pytest.raises(MaskError):
            merge_objects(wrong)


@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_nearest_rules_are_those_of_pillow_and_opencv(have: tuple[int, int], want: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 255, have, dtype=np.uint8)
    pillow = np.array(Image.fromarray(labels).resize(want[::-1], Image.Resampling.NEAREST))
    np.testing.assert_array_equal(nearest_resize(labels, want), pillow)
    opencv = cv2.resize(labels, want[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(nearest_resize(labels, want, rule="corner"), opencv)
