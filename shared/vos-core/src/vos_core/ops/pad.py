"""Pad to a multiple, evenly on both sides, and undo it."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError


class Pads(NamedTuple):
    """Pixels added on each side, in the order that `torch.nn.functional.pad` takes."""

    left: int
    right: int
    top: int
    bottom: int


def pads_to_multiple(height: int, width: int, multiple: int) -> Pads:
    """Return what an image needs on each side; an odd pixel goes to the right and to the bottom.

    >>> pads_to_multiple(480, 854, 16)
    Pads(left=5, right=5, top=0, bottom=0)
    """
    if multiple < 1:
        raise UsageError(f"cannot pad to a multiple of {multiple}", expected="1 or more pixels")
    extra_x, extra_y = -width % multiple, -height % multiple
    return Pads(extra_x // 2, extra_x - extra_x // 2, extra_y // 2, extra_y - extra_y // 2)


def pad_to_multiple(x: Tensor, multiple: int, value: float = 0.0) -> tuple[Tensor, Pads]:
    """Return `x` grown to sides that are multiples of `multiple`, and the pads that `unpad` takes.

    Args:
        x: `(..., H, W)` of any dtype.
        multiple: pixels, 1 or more.
        value: what the new pixels hold; 0 in a normalised image is the mean colour.
    """
    pads = pads_to_multiple(x.shape[-2], x.shape[-1], multiple)
    return (F.pad(x, pads, value=value) if any(pads) else x), pads


def unpad(x: Tensor, pads: tuple[int, int, int, int]) -> Tensor:
    """Return the view of `(..., H, W)` without its pads (left, right, top, bottom)."""
    left, right, top, bottom = pads
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]
