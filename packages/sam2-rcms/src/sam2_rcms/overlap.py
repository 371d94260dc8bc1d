"""One pixel, one object: what SAM 2 does where masks overlap (spec section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

SUPPRESSED = -10.0
"""Highest logit of an object where another one is stronger."""


def separate(logits: Tensor) -> Tensor:
    """Return logits `(N, 1, H, W)` in which only the strongest object of a pixel may be above -10; the first of equals wins.

    >>> separate(torch.tensor([2.0, 1.0]).view(2, 1, 1, 1)).flatten().tolist()
    [2.0, -10.0]
    """
    if logits.shape[0] == 1:
        return logits
    strongest = logits.argmax(0, keepdim=True)
    slots = torch.arange(logits.shape[0], device=logits.device).view(-1, 1, 1, 1)
    return torch.where(strongest == slots, logits, logits.clamp(max=SUPPRESSED))
