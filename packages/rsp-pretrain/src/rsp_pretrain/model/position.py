"""Position tables: fixed sines and cosines, and their resampling to any number of tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.errors import UsageError


def sincos_table(dim: int, side: int) -> Tensor:
    """Return the table of a square grid with a class token, float32 `(1, side^2 + 1, dim)`.

    The first half of the channels encodes the column, the second the row; each half is [sin, cos] of position times
    10000^(-j / (dim / 4)). The class token's row is zero.

    Raises:
        UsageError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise UsageError(f"positions of {dim} channels", expected="a multiple of 4")
    rate = np.arange(dim // 4, dtype=np.float32) / np.float32(dim / 4)
    rate = (1.0 / 10000**rate).astype(np.float32)
    row, column = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32), indexing="ij")
    halves = []
    for place in (column, row):
        angle = np.outer(place.reshape(-1), rate)
        halves += [np.sin(angle), np.cos(angle)]
    table = np.concatenate([np.zeros((1, dim)), np.concatenate(halves, axis=1)])
    return torch.from_numpy(table.astype(np.float32)).unsqueeze(0)


def resample_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the table for a grid of (rows, columns) tokens, `(1, rows * columns + 1, D)`.

    Bicubic with the scale factors (rows + 0.1) / side and (columns + 0.1) / side, as DINO does: the 0.1 guards against rounding
    down and stays in the sampling coordinates, so resampling by size would give other numbers. The class row is kept; a table
    that has this grid already is returned as it is.

    Args:
        table: `(1, side^2 + 1, D)`.
        grid: tokens per column and per row of the image.
    """
    rows, columns = grid
    side = round((table.shape[1] - 1) ** 0.5)
    if rows == columns == side:
        return table
    patches = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    scale = ((rows + 0.1) / side, (columns + 0.1) / side)
    patches = F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False)
    assert patches.shape[2:] == (rows, columns)
    return torch.cat((table[:, :1], patches.permute(0, 2, 3, 1).reshape(1, rows * columns, -1).to(table.dtype)), 1)


def resize_table(table: Tensor, side: int) -> Tensor:
    """Return the table for a square grid of another size, bicubic by size; for checkpoints made at another image size."""
    before = round((table.shape[1] - 1) ** 0.5)
    if before == side:
        return table
    patches = table[:, 1:].reshape(1, before, before, -1).permute(0, 3, 1, 2).float()
    patches = F.interpolate(patches, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat((table[:, :1], patches.permute(0, 2, 3, 1).reshape(1, side * side, -1).to(table.dtype)), 1)
