"""Named resize policies. Resamplers of Pillow, OpenCV and torch are not interchangeable, so a method names its own."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError

Picture = TypeVar("Picture", Tensor, npt.NDArray[Any])


class ResizePolicy(str, Enum):
    """Library, filter and, for torch, whether it widens when shrinking. Pillow always does, OpenCV only with `area`.

    Torch policies take tensors `(..., H, W)`, the others arrays `(H, W)` or `(H, W, C)`. Only `nearest` keeps labels intact.
    """

    TORCH_NEAREST = "torch-nearest"
    TORCH_NEAREST_EXACT = "torch-nearest-exact"
    TORCH_BILINEAR = "torch-bilinear"
    TORCH_BILINEAR_ANTIALIAS = "torch-bilinear-antialias"
    TORCH_BICUBIC = "torch-bicubic"
    TORCH_BICUBIC_ANTIALIAS = "torch-bicubic-antialias"
    PILLOW_NEAREST = "pillow-nearest"
    PILLOW_BOX = "pillow-box"
    PILLOW_BILINEAR = "pillow-bilinear"
    PILLOW_BICUBIC = "pillow-bicubic"
    PILLOW_LANCZOS = "pillow-lanczos"
    OPENCV_NEAREST = "opencv-nearest"
    OPENCV_BILINEAR = "opencv-bilinear"
    OPENCV_BICUBIC = "opencv-bicubic"
    OPENCV_AREA = "opencv-area"


_PILLOW = {
    ResizePolicy.PILLOW_NEAREST: Image.Resampling.NEAREST,
    ResizePolicy.PILLOW_BOX: Image.Resampling.BOX,
    ResizePolicy.PILLOW_BILINEAR: Image.Resampling.BILINEAR,
    ResizePolicy.PILLOW_BICUBIC: Image.Resampling.BICUBIC,
    ResizePolicy.PILLOW_LANCZOS: Image.Resampling.LANCZOS,
}
_OPENCV = {
    ResizePolicy.OPENCV_NEAREST: cv2.INTER_NEAREST,
    ResizePolicy.OPENCV_BILINEAR: cv2.INTER_LINEAR,
    ResizePolicy.OPENCV_BICUBIC: cv2.INTER_CUBIC,
    ResizePolicy.OPENCV_AREA: cv2.INTER_AREA,
}


def resize(x: Picture, size: tuple[int, int], policy: ResizePolicy | str) -> Picture:
    """Return `x` at `size` = (height, width), resampled by `policy`; `x` itself where it already has that size.

    >>> resize(torch.eye(2), (4, 4), "torch-nearest").sum().item()
    8.0

    Raises:
        UsageError: an unknown policy, a size below one pixel, or a tensor where the policy takes an array and the reverse.
    """
    try:
        policy = ResizePolicy(policy)
    except ValueError as error:
        known = ", ".join(item.value for item in ResizePolicy)
        raise UsageError(f"unknown resize policy '{policy}'", expected=f"one of {known}") from error
    if min(size) < 1:
        raise UsageError(f"cannot resize to {size[0]} x {size[1]} pixels", expected="1 pixel or more on each side")
    wants_tensor = policy.value.startswith("torch-")
    if isinstance(x, Tensor) != wants_tensor:
        raise UsageError(f"resize policy {policy.value} got {type(x).__name__}", expected="tensor" if wants_tensor else "array")
    if isinstance(x, Tensor):
        return x if tuple(x.shape[-2:]) == tuple(size) else _resize_torch(x, size, policy)
    return x if x.shape[:2] == tuple(size) else _resize_array(x, size, policy)


def short_side_size(height: int, width: int, short: int) -> tuple[int, int]:
    """Return (height, width) with the shorter side at `short` pixels and the longer one at int(short * long / shorter).

    Nothing changes where `short` is -1 or the shorter side already has it.

    >>> short_side_size(720, 1280, 480)
    (480, 853)
    """
    if short == -1 or min(height, width) == short:
        return height, width
    if short < 1:
        raise UsageError(f"cannot resize the shorter side to {short} pixels", expected="1 or more, or -1 to keep the size")
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def _resize_torch(x: Tensor, size: tuple[int, int], policy: ResizePolicy) -> Tensor:
    mode = policy.value.removeprefix("torch-").removesuffix("-antialias")
    smooth_options: dict[str, bool] = {}
    if not mode.startswith("nearest"):
        smooth_options = {"align_corners": False, "antialias": policy.value.endswith("-antialias")}
        if not x.is_floating_point():
            raise UsageError(f"resize policy {policy.value} got {x.dtype}", expected="floating point, or a nearest policy")
    # float32 holds every integer below 2**24, and interpolate takes few integer dtypes.
    flat = x.reshape(-1, 1, *x.shape[-2:]) if x.is_floating_point() else x.reshape(-1, 1, *x.shape[-2:]).to(torch.float32)
    out = F.interpolate(flat, size=size, mode=mode, **smooth_options)
    return out.to(x.dtype).reshape(*x.shape[:-2], *size)


def _resize_array(x: npt.NDArray[Any], size: tuple[int, int], policy: ResizePolicy) -> npt.NDArray[Any]:
    height, width = size
    plain = x.astype(np.uint8) if x.dtype == np.bool_ else x
    if policy in _OPENCV:
        out = cv2.resize(plain, (width, height), interpolation=_OPENCV[policy])
    else:
        out = np.asarray(Image.fromarray(plain).resize((width, height), _PILLOW[policy]))
    return out.astype(x.dtype, copy=False)
