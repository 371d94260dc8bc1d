"""From logits of groups to probabilities and label maps at the output's size (spec sections 3.3 and 3.5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rmem_deaot.config import SLOTS
from rmem_deaot.prepare import upsample
from vos_core.ops.aggregate import GROUP_EPSILON, merge_groups


def probabilities(logits: Tensor, groups: Sequence[int], size: tuple[int, int], *, channels: int, align_corners: bool) -> Tensor:
    """Return probabilities of background and objects, float32 `(channels, H, W)`; objects of absent groups have none.

    Args:
        logits: `(G, 11, h, w)`.
        groups: which group each row is; object 10 g + c is channel c of group g.
        size: (height, width) of the result.
        channels: of the result; more identities than that are left out.
        align_corners: of the up-sampling.
    """
    if len(logits) == 1:
        used = min(logits.shape[1], channels - SLOTS * groups[0])
        parts = [torch.softmax(upsample(logits[:, :used], size, align_corners=align_corners)[0], 0)]
        merged = parts[0]
    else:
        parts = [torch.softmax(upsample(row[None], size, align_corners=align_corners)[0], 0) for row in logits]
        merged = torch.softmax(merge_groups(parts), 0)
    if list(groups) == list(range(len(groups))):
        return merged[:channels]
    out = merged.new_zeros(channels, *size)
    out[0], start = merged[0], 1
    for group, part in zip(groups, parts, strict=True):
        first = 1 + SLOTS * group
        count = min(len(part) - 1, channels - first)
        out[first : first + count] = merged[start : start + count]
        start += len(part) - 1
    return out


def label_map(logits: Tensor, groups: Sequence[int], size: tuple[int, int], *, channels: int, align_corners: bool) -> Tensor:
    """Return the likeliest object per pixel, int32 `(H, W)`: the arg-max of `probabilities` without holding all of them.

    Arguments as in `probabilities`.
    """
    if len(logits) == 1:
        used = min(logits.shape[1], channels - SLOTS * groups[0])
        return _first_best(upsample(logits[:, :used], size, align_corners=align_corners)[0], SLOTS * groups[0])
    background: Tensor | float = 1.0
    best = label = None
    for group, row in zip(groups, logits, strict=True):
        prob = torch.softmax(upsample(row[None], size, align_corners=align_corners)[0], 0)
        background = prob[0] * background
        for place in range(1, min(len(prob), channels - SLOTS * group)):
            number = SLOTS * group + place
            # The clamp of merged groups decides ties: the first of two sure objects wins.
            candidate = prob[place].clamp(GROUP_EPSILON, 1 - GROUP_EPSILON)
            if best is None or label is None:
                best, label = candidate.clone(), torch.full(size, number, dtype=torch.int32, device=logits.device)
                continue
            label.masked_fill_(candidate > best, number)
            torch.maximum(best, candidate, out=best)
    assert best is not None
    assert label is not None
    assert isinstance(background, Tensor)
    return label.masked_fill_(background.clamp(GROUP_EPSILON, 1 - GROUP_EPSILON) >= best, 0)


def first_best(values: Tensor) -> Tensor:
    """Return the arg-max over channels, int32 `(H, W)` of `(C, H, W)`; the first of equals."""
    return _first_best(values, 0)


def _first_best(values: Tensor, shift: int) -> Tensor:
    # One pass per channel instead of argmax over the outer dimension, which torch does not vectorise.
    best = values[0].clone()
    label = torch.zeros(best.shape, dtype=torch.int32, device=best.device)
    for place in range(1, len(values)):
        label.masked_fill_(values[place] > best, shift + place)
        torch.maximum(best, values[place], out=best)
    return label
