"""Position encodings that hold no weights: sine maps of grids, sine codes of distances, rotary tables.

All are constants of a size, computed once per device (spec section 8.5).
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0


@functools.lru_cache(maxsize=32)
def sine_map(height: int, width: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return `(1, channels, height, width)`: the row's code, then the column's; sine and cosine interleaved.

    Positions count from 1 and are scaled to 2 pi at the far edge (spec section 2.1).
    """
    with torch.inference_mode(False):
        half = channels // 2
        index = torch.arange(half, dtype=torch.float32, device=device)
        period = _TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / half)

        def code(length: int) -> Tensor:
            place = torch.arange(1, length + 1, dtype=torch.float32, device=device)
            angle = (place / (place[-1] + 1e-6) * (2 * math.pi))[:, None] / period
            return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1)

        rows = code(height).T[:, :, None].expand(half, height, width)
        columns = code(width).T[:, None, :].expand(half, height, width)
        return torch.cat((rows, columns)).unsqueeze(0).contiguous()


def sine_of_distance(distance: Tensor, dim: int) -> Tensor:
    """Return `(..., dim)` codes of numbers `(...)`: all sines, then all cosines (spec section 2.7)."""
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=distance.device)
    period = _TEMPERATURE ** (2 * torch.div(index, 2, rounding_mode="floor") / half)
    angle = distance.unsqueeze(-1) / period
    return torch.cat((angle.sin(), angle.cos()), -1)


@functools.lru_cache(maxsize=16)
def rotary_table(side: int, channels: int, device: torch.device | str = "cpu") -> Tensor:
    """Return complex64 `(side * side, channels / 2)`: first half of the pairs turns with the column, second with the row."""
    with torch.inference_mode(False):
        frequency = 1.0 / _TEMPERATURE ** (torch.arange(0, channels, 4, dtype=torch.float32, device=device) / channels)
        place = torch.arange(side * side, dtype=torch.float32, device=device)
        column, row = place % side, torch.div(place, side, rounding_mode="floor")
        angle = torch.cat((torch.outer(column, frequency), torch.outer(row, frequency)), 1)
        return torch.polar(torch.ones_like(angle), angle)


def rotate_(x: Tensor, table: Tensor) -> Tensor:
    """Turn float32 `x` `(B, L, C)` in place, as `rotate` does, and return it; for large keys, where copies cost as much."""
    pairs = torch.view_as_complex(x.view(x.shape[0], -1, table.shape[0], table.shape[1], 2))
    pairs.mul_(table)
    return x


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Return float32 `x` `(B, L, C)` with neighbouring channels turned as pairs; tables repeat along L as often as they fit."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    if x.shape[-2] != table.shape[0]:
        pairs = pairs.reshape(*pairs.shape[:-2], -1, *table.shape)
        return torch.view_as_real(pairs * table).flatten(-2).flatten(-3, -2)
    return torch.view_as_real(pairs * table).flatten(-2)
