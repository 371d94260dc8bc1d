"""Where a token is: sine positions on the map (AOT's self-attention) and learned positions in time (RMem)."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from rmem_deaot.config import TEMPORAL_SLOTS


def temporal_slots(frames: int) -> list[int]:
    """Return which learned position each frame of a bank has, oldest first (spec section 2.7).

    Up to four frames take the slots in order; more spread them by nearest neighbour, counted from the newest.

    >>> temporal_slots(6)
    [0, 1, 1, 2, 3, 3]
    """
    if frames <= TEMPORAL_SLOTS:
        return list(range(frames))
    last = TEMPORAL_SLOTS - 1
    return [last - (frames - 1 - place) * TEMPORAL_SLOTS // frames for place in range(frames)]


@functools.lru_cache(maxsize=4)
def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return sine positions of a map, float32 `(height * width, channels)`: half the channels for y, then half for x."""
    half = channels // 2
    divisor = 10000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def axis(size: int) -> Tensor:
        # The first cell is 0, the last one a full turn.
        place = torch.arange(size, dtype=torch.float32)
        angle = (place / (size - 1 + 1e-6) * 2 * math.pi)[:, None] / divisor
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), 2).flatten(1)

    rows = axis(height)[:, None].expand(height, width, half)
    columns = axis(width)[None].expand(height, width, half)
    return torch.cat((rows, columns), 2).flatten(0, 1).to(device)
