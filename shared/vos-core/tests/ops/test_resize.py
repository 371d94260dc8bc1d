from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from vos_core.errors import UsageError
from vos_core.ops.resize import ResizePolicy, resize, short_side_size

TORCH = [policy for policy in ResizePolicy if policy.value.startswith("torch-")]
ARRAY = [policy for policy in ResizePolicy if policy not in TORCH]


@pytest.mark.parametrize("policy", TORCH)
@pytest.mark.parametrize("size", [(5, 9), (20, 31)])
def test_torch_policies_keep_constants_leading_dimensions_and_dtype(policy, size):
    out = resize(torch.full((2, 3, 10, 12), 0.25, dtype=torch.float64), size, policy)
    assert out.shape == (2, 3, *size)
    assert out.dtype == torch.float64
    torch.testing.assert_close(out, torch.full_like(out, 0.25))


@pytest.mark.parametrize("policy", ARRAY)
@pytest.mark.parametrize("shape", [(10, 12), (10, 12, 3)])
def test_array_policies_keep_constants_and_dtype(policy, shape):
    out = resize(np.full(shape, 77, np.uint8), (20, 7), policy)
    assert out.shape == (20, 7, *shape[2:])
    assert out.dtype == np.uint8
    assert (out == 77).all()


def test_policies_name_different_resamplers():
    picture = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    results = {policy: resize(picture, (9, 11), policy).tobytes() for policy in ARRAY}
    assert len(set(results.values())) == len(ARRAY)
    assert resize(picture, (9, 11), "pillow-bicubic").tobytes() == Image.fromarray(picture).resize((11, 9), 3).tobytes()
    assert resize(picture, (9, 11), "opencv-area").tobytes() == cv2.resize(picture, (11, 9), interpolation=3).tobytes()


def test_antialias_matters_only_when_shrinking():
    x = torch.rand(1, 16, 16)
    torch.testing.assert_close(resize(x, (32, 32), "torch-bilinear"), resize(x, (32, 32), "torch-bilinear-antialias"))
    assert not torch.allclose(resize(x, (5, 5), "torch-bilinear"), resize(x, (5, 5), "torch-bilinear-antialias"))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool])
def test_nearest_keeps_labels_of_every_dtype(dtype):
    labels = torch.arange(12).reshape(3, 4).to(dtype)
    out = resize(labels, (6, 8), "torch-nearest")
    assert out.dtype == dtype
    assert torch.equal(out, labels.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.parametrize("policy", ["pillow-nearest", "opencv-nearest"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_array_nearest_keeps_labels(policy, dtype):
    labels = np.arange(12).reshape(3, 4).astype(dtype)
    out = resize(labels, (6, 8), policy)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, labels.repeat(2, 0).repeat(2, 1))


def test_equal_size_returns_the_input_itself():
    tensor, array = torch.rand(2, 4, 5), np.zeros((4, 5), np.uint8)
    assert resize(tensor, (4, 5), ResizePolicy.TORCH_BICUBIC) is tensor
    assert resize(array, (4, 5), ResizePolicy.PILLOW_BOX) is array


@pytest.mark.parametrize(
    ("height", "width", "short", "expected"),
    [(480, 854, 480, (480, 854)), (720, 1280, 480, (480, 853)), (1280, 720, 480, (853, 480)), (100, 30, -1, (100, 30))],
)
def test_short_side(height, width, short, expected):
    assert short_side_size(height, width, short) == expected


def test_wrong_use_is_explained():
    with pytest.raises(UsageError, match="one of torch-nearest"):
        resize(torch.rand(4, 4), (2, 2), "bicubic")
    with pytest.raises(UsageError, match="Expected array"):
        resize(torch.rand(4, 4), (2, 2), "pillow-box")
    with pytest.raises(UsageError, match="Expected tensor"):
        resize(np.zeros((4, 4)), (2, 2), "torch-nearest")
    with pytest.raises(UsageError, match="nearest policy"):
        resize(torch.zeros(4, 4, dtype=torch.uint8), (2, 2), "torch-bilinear")
    with pytest.raises(UsageError, match="0 x 2"):
        resize(torch.rand(4, 4), (0, 2), "torch-nearest")
    with pytest.raises(UsageError, match="-1 to keep"):
        short_side_size(10, 10, 0)
