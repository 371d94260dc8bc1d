"""Soft aggregation: from independent object probabilities to one distribution per pixel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

EPSILON = 1e-7
"""In float32 the upper clamp is 1 - 2**-23, so extreme logits are -16.118095 and +15.942385: kept as published models have it."""
GROUP_EPSILON = 1e-5


def aggregate_logits(prob: Tensor, *, dim: int = -3) -> Tensor:
    """Return logits of background and objects whose soft-max is the aggregated distribution.

    The background is the product of (1 - p). Order of operations (product, concatenation, clamp, odds, log) and float32
    decide the last bits and are those of STCN.

    Args:
        prob: object probabilities 0-1, `(..., N, H, W)`; computed in float32 whatever the dtype.
        dim: which dimension counts the objects.

    Returns:
        float32 `(..., N + 1, H, W)`, background first.
    """
    prob = prob.float()
    background = torch.prod(1 - prob, dim=dim, keepdim=True)
    both = torch.cat((background, prob), dim).clamp(EPSILON, 1 - EPSILON)
    return torch.log(both / (1 - both))


def aggregate(prob: Tensor, *, dim: int = -3, keep_background: bool = True) -> Tensor:
    """Return the aggregated distribution of object probabilities `(..., N, H, W)`.

    >>> aggregate(torch.tensor([0.9, 0.2]), dim=0).argmax().item()
    1

    Args:
        prob: object probabilities 0-1.
        dim: which dimension counts the objects.
        keep_background: False leaves the background channel out of the result, not out of the soft-max.

    Returns:
        float32 `(..., N + 1, H, W)`, background first, sums to 1; `(..., N, H, W)` without background.
    """
    soft = torch.softmax(aggregate_logits(prob, dim=dim), dim)
    return soft if keep_background else soft.narrow(dim, 1, soft.shape[dim] - 1)


def merge_groups(groups: Sequence[Tensor], *, dim: int = -3) -> Tensor:
    """Return logits of one map from groups of objects that were segmented independently of each other.

    The merged background is the product of the groups' backgrounds; objects keep their probability (AOT, DeAOT with more
    objects than slots). A soft-max over the result gives the distribution.

    Args:
        groups: probabilities of each group, `(..., 1 + N_g, H, W)`, background first.
        dim: which dimension counts background and objects.

    Returns:
        float32 `(..., 1 + sum of N_g, H, W)`: log-odds of the probabilities clamped to 1e-5 ... 1 - 1e-5.
    """
    first, *others = (group.float() for group in groups)
    background = first.narrow(dim, 0, 1)
    for group in others:
        background = background * group.narrow(dim, 0, 1)
    objects = [group.narrow(dim, 1, group.shape[dim] - 1) for group in (first, *others)]
    return torch.logit(torch.cat((background, *objects), dim).clamp(GROUP_EPSILON, 1 - GROUP_EPSILON))
