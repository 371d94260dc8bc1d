"""Colour tables of label PNGs, computed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Palette = npt.NDArray[np.uint8]
"""uint8 `(256, 3)`, RGB of every label."""


def _bit_spread(*, entries: int) -> Palette:
    # Bits 0, 1, 2 of the index go to R, G, B at weight 2^(7-j) while the index is shifted right by 3, j = 0..7.
    index = np.arange(entries)
    table = np.zeros((entries, 3), np.uint8)
    for j in range(8):
        for channel in range(3):
            table[:, channel] |= (((index >> (3 * j + channel)) & 1) << (7 - j)).astype(np.uint8)
    return table


def _davis() -> Palette:
    table = _bit_spread(entries=256)
    table.flags.writeable = False
    return table


def _aot() -> Palette:
    # The AOT, RMem and LVOS family: 22 entries of the same scheme with 191 in place of 192, then grey.
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    head = _bit_spread(entries=22)
    head[head == 192] = 191
    table[:22] = head
    table.flags.writeable = False
    return table


DAVIS_PALETTE: Palette = _davis()
"""The DAVIS palette, which is the PASCAL VOC colour map. Read-only."""
AOT_PALETTE: Palette = _aot()
"""The palette that AOT, RMem and LVOS files carry. Read-only."""
