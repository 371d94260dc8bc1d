"""Connected components with areas, and the hole filling that needs them."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vos_core.errors import UsageError
from vos_core.ops.backend import backend_of

FILL_SCORE = 0.1
"""What a filled hole scores: just on the object's side of 0 (SAM 2)."""


class Components(NamedTuple):
    """Components of a batch of masks, both int32 `(N, 1, H, W)` and 0 on background.

    Args:
        labels: 1 + the smallest 2 * (y // 2) * W + 2 * (x // 2) over the component's pixels.
        areas: pixels of the component, at each of its pixels.
    """

    labels: Tensor
    areas: Tensor


def connected_components(mask: Tensor) -> Components:
    """Return the 8-connected components of each mask, on the mask's device.

    >>> connected_components(torch.tensor([[[[1, 0], [0, 1]]]])).areas.tolist()
    [[[[2, 0], [0, 2]]]]

    Args:
        mask: `(N, 1, H, W)`, nonzero = object.
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise UsageError(f"connected components got a mask of shape {tuple(mask.shape)}", expected="(N, 1, H, W)")
    solid = mask != 0
    if solid.numel() == 0:
        empty = torch.zeros(mask.shape, dtype=torch.int32, device=mask.device)
        return Components(empty, empty.clone())
    if backend_of("components", mask) == "triton":
        from vos_core.ops.kernels.components import connected_components as kernel

        return Components(*kernel(solid))
    found = [_components_opencv(image) for image in solid[:, 0].cpu().numpy()]
    labels, areas = (torch.from_numpy(np.stack(part)[:, None]).to(mask.device) for part in zip(*found, strict=True))
    return Components(labels, areas)


def fill_holes(scores: Tensor, max_area: int) -> Tensor:
    """Return scores in which small background components (score <= 0, at most `max_area` pixels) score 0.1.

    Args:
        scores: mask logits `(N, 1, H, W)`, above 0 = object.
        max_area: pixels; 0 fills nothing.
    """
    if max_area <= 0:
        return scores
    areas = connected_components(scores <= 0).areas
    return torch.where((areas > 0) & (areas <= max_area), torch.full_like(scores, FILL_SCORE), scores)


def _components_opencv(solid: npt.NDArray[np.bool_]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    height, width = solid.shape
    count, index, stats, _ = cv2.connectedComponentsWithStats(solid.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    # All object pixels of a 2 x 2 block touch each other, so a block belongs to at most one component.
    even = np.pad(index, ((0, height % 2), (0, width % 2)))
    block = even.reshape(even.shape[0] // 2, 2, even.shape[1] // 2, 2).max((1, 3))
    origin = 2 * width * np.arange(block.shape[0])[:, None] + 2 * np.arange(block.shape[1])[None, :]
    label = np.zeros(count, np.int32)
    # Assigned from the last block to the first: the smallest origin stays.
    label[block.ravel()[::-1]] = 1 + origin.ravel()[::-1]
    label[0] = 0
    area = stats[:, cv2.CC_STAT_AREA].astype(np.int32)
    area[0] = 0
    return label[index], area[index]
