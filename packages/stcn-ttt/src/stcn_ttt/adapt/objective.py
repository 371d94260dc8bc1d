"""The three self-supervised losses: mask cycle consistency, auto-encoding of the given mask, entropy of the prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stcn_ttt.adapt.backbone import Backbone
from stcn_ttt.adapt.config import Loss
from stcn_ttt.model.network import Segmentation, sum_of_others


@dataclass(frozen=True, slots=True)
class Sequences:
    """A batch of short frame sequences that begin at an annotated frame.

    Args:
        images: normalised, padded, `(B, n, 3, H, W)`.
        masks: hard masks of the first frame, `(B, N, H, W)`, 0 or 1.
        others: for each object the sum of the other objects' masks, left-out objects included, `(B, N, H, W)`.
        selector: `(B, N)`, 0 for a slot that only fills up.
        target: classes of the first frame, int64 `(B, H, W)`, 0 background, i + 1 object i.
    """

    images: Tensor
    masks: Tensor
    others: Tensor
    selector: Tensor
    target: Tensor


class Passes(NamedTuple):
    """Predictions of the forward pass (frames 1..n-1) and, for the cycle, of the backward pass (frames n-2..0)."""

    forward: list[Segmentation]
    backward: list[Segmentation]


def loss_of(backbone: Backbone, batch: Sequences, loss: Loss, *, encode_first: bool = False) -> Tensor:
    """Return the scalar loss of a batch; gradients flow through everything.

    Args:
        backbone: the network.
        batch: sequences; `tt-ae` uses their first frame only.
        loss: which objective.
        encode_first: also decode each pass's first frame from its own value (off in the published runs).
    """
    if loss == "tt-ae":
        return F.cross_entropy(autoencode(backbone, batch).logits, batch.target)
    if loss == "tt-mcc":
        return F.cross_entropy(cycle(backbone, batch, encode_first=encode_first).backward[-1].logits, batch.target)
    forward = run_forward(backbone, batch, encode_first=encode_first).forward
    return torch.stack([entropy(one.logits) for one in forward]).mean()


def entropy(logits: Tensor) -> Tensor:
    """Return the mean over pixels of the entropy, in nats, of the soft-max of `(B, C, H, W)`."""
    logarithm = F.log_softmax(logits, 1)
    return -(logarithm.exp() * logarithm).sum(1).mean()


def run_forward(backbone: Backbone, batch: Sequences, *, encode_first: bool = False) -> Passes:
    """Return the forward pass alone."""
    live = _live(batch)
    states = backbone.encode_key(batch.images)
    first = (batch.masks[:, :live], batch.others[:, :live])
    return Passes(_one_way(backbone, states, batch.images, first, batch.selector, encode_first), [])


def cycle(backbone: Backbone, batch: Sequences, *, encode_first: bool = False) -> Passes:
    """Return both passes: forward from the given mask, then backward from the soft mask of the last frame."""
    live = _live(batch)
    states = backbone.encode_key(batch.images)
    first = (batch.masks[:, :live], batch.others[:, :live])
    forward = _one_way(backbone, states, batch.images, first, batch.selector, encode_first)
    back = _one_way(backbone, states[::-1], batch.images.flip(1), _soft(forward[-1], live), batch.selector, encode_first)
    return Passes(forward, back)


def autoencode(backbone: Backbone, batch: Sequences) -> Segmentation:
    """Return the first frame decoded from the value of its own mask."""
    live = _live(batch)
    (state,) = backbone.encode_key(batch.images[:, :1])
    value = backbone.encode_value(state, batch.images[:, 0], batch.masks[:, :live], batch.others[:, :live])
    return backbone.decode_value(state, value, selector=batch.selector[:, :live], empty_slots=batch.selector.shape[1] - live)


def _one_way(
    backbone: Backbone,
    states: Sequence[Any],
    images: Tensor,
    first: tuple[Tensor, Tensor],
    selector: Tensor,
    encode_first: bool,
) -> list[Segmentation]:
    live = first[0].shape[1]
    chosen, empty = selector[:, :live], selector.shape[1] - live
    value = backbone.encode_value(states[0], images[:, 0], *first)
    found = [backbone.decode_value(states[0], value, selector=chosen, empty_slots=empty)] if encode_first else []
    memory = [(states[0], value)]
    last = len(states) - 1
    for t in range(1, last + 1):
        found.append(backbone.segment(states[t], memory, selector=chosen, empty_slots=empty))
        if t < last:
            memory.append((states[t], backbone.encode_value(states[t], images[:, t], *_soft(found[-1], live))))
    return found


def _soft(prediction: Segmentation, live: int) -> tuple[Tensor, Tensor]:
    """Return the live objects' soft masks and the sums of the others, taken over all slots: the total minus each one's own."""
    objects = prediction.probs[:, 1:]
    return objects[:, :live], sum_of_others(objects)[:, :live]


def _live(batch: Sequences) -> int:
    """Return how many leading slots any sequence uses.

    A slot whose selector is 0 everywhere has probability 0 whatever the network says of it and gives no gradient, so it is not
    computed; it still takes its share in the aggregation.
    """
    return max(1, int(batch.selector.any(0).nonzero().max()) + 1) if bool(batch.selector.any()) else 1
