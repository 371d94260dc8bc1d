"""Triton: connected components by hooking trees onto smaller neighbours and flattening them, until nothing changes.

Every tree that is not a whole component hooks or is hooked in a round, so the trees at least halve: log2(pixels) rounds, for
spirals and combs too. Twin: OpenCV in `vos_core.ops.components`.
"""

# Kernel arguments are pointers and numbers of the device language.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit
def _hook(parent, changed, height, width, pixels, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    root = tl.load(parent + pixel, mask=pixel < pixels, other=-1)
    solid = root >= 0
    row = (pixel // width) % height
    column = pixel % width
    smallest = root
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            inside = (row + dy >= 0) & (row + dy < height) & (column + dx >= 0) & (column + dx < width)
            other = tl.load(parent + pixel + dy * width + dx, mask=solid & inside, other=-1)
            smallest = tl.where((other >= 0) & (other < smallest), other, smallest)
    hooks = solid & (smallest < root)
    tl.atomic_min(parent + root, smallest, mask=hooks)
    tl.atomic_max(changed + tl.zeros_like(pixel), tl.full(pixel.shape, 1, tl.int32), mask=hooks)


@triton.jit
def _flatten(parent, pixels, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    node = tl.load(parent + pixel, mask=pixel < pixels, other=-1)
    solid = node >= 0
    above = tl.load(parent + node, mask=solid, other=-1)
    while tl.max((above != node).to(tl.int32), 0) > 0:
        node = above
        above = tl.load(parent + node, mask=solid, other=-1)
    tl.store(parent + pixel, node, mask=solid)


@triton.jit
def _measure(parent, origin, area_of, height, width, pixels, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    root = tl.load(parent + pixel, mask=pixel < pixels, other=-1)
    solid = root >= 0
    row = (pixel // width) % height
    column = pixel % width
    tl.atomic_min(origin + root, row // 2 * 2 * width + column // 2 * 2, mask=solid)
    tl.atomic_add(area_of + root, tl.full(pixel.shape, 1, tl.int32), mask=solid)


def connected_components(solid: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels and areas, int32 `(N, 1, H, W)`, of bool masks; see `vos_core.ops.components.Components`."""
    height, width = solid.shape[2:]
    pixels = solid.numel()
    own = torch.arange(pixels, dtype=torch.int32, device=solid.device)
    parent = torch.where(solid.flatten(), own, -1)
    changed = torch.zeros(1, dtype=torch.int32, device=solid.device)
    grid = (triton.cdiv(pixels, _BLOCK),)
    while True:
        changed.zero_()
        _hook[grid](parent, changed, height, width, pixels, block=_BLOCK)
        if not changed.item():
            break
        _flatten[grid](parent, pixels, block=_BLOCK)
    origin = torch.full_like(parent, torch.iinfo(torch.int32).max)
    area = torch.zeros_like(parent)
    _measure[grid](parent, origin, area, height, width, pixels, block=_BLOCK)
    root = parent.clamp(min=0).long()
    flat = solid.flatten()
    labels, areas = (torch.where(flat, x[root], 0).view(solid.shape) for x in (origin + 1, area))
    return labels, areas
