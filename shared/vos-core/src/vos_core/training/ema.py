"""Exponential moving average of trainable weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


def warming_decay(limit: float) -> Callable[[int], float]:
    """Return the decay `min(limit, (1 + n) / (10 + n))` of the n-th update, n from 1."""
    return lambda n: min(limit, (1 + n) / (10 + n))


class Ema:
    """Average of the trainable parameters of `model`.

    Args:
        model: whose parameters are averaged; only those that need gradients when this is made.
        decay: of the n-th update, n from 1, or a constant.
    """

    def __init__(self, model: nn.Module, decay: float | Callable[[int], float]) -> None:
        self.decay = decay if callable(decay) else lambda n: decay
        self.updates = 0
        self.average = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model` once."""
        self.updates += 1
        weight = 1 - self.decay(self.updates)
        current = dict(model.named_parameters())
        torch._foreach_lerp_(list(self.average.values()), [current[name].detach() for name in self.average], weight)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Let `model` hold the average inside the block, its own weights after."""
        current = {name: p for name, p in model.named_parameters() if name in self.average}
        kept = {name: p.detach().clone() for name, p in current.items()}
        _copy(current, self.average)
        try:
            yield
        finally:
            _copy(current, kept)

    def state_dict(self) -> dict[str, object]:
        """Return everything that a resumed run needs."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Take over what `state_dict` returned."""
        average = state["average"]
        updates = state["updates"]
        assert isinstance(average, dict)
        assert isinstance(updates, int)
        assert average.keys() == self.average.keys(), "the average is of other parameters"
        self.updates = updates
        _copy(self.average, average)


@torch.no_grad()
def _copy(into: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(values[name])
