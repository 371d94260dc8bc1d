"""The policy that is cloned: batch norm of the input and a small network, trained by squared error."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class ClonePolicy(nn.Module):
    """From a vector to an action.

    Args:
        inputs: length of the vector.
        outputs: length of an action.
        hidden: widths of the layers between.
    """

    def __init__(self, inputs: int, outputs: int, hidden: Sequence[int] = (256, 256, 256)) -> None:
        super().__init__()
        widths = (inputs, *hidden)
        layers: list[nn.Module] = [nn.BatchNorm1d(inputs)]
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        """Return actions `(B, outputs)` for vectors `(B, inputs)`."""
        found: Tensor = self.layers(vectors)
        return found


def shuffled(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield the indices of one epoch in batches; a last one of a single sample is left out, which batch norm cannot take."""
    order = torch.randperm(count, generator=generator)
    for first in range(0, count, batch):
        part = order[first : first + batch]
        if len(part) > 1:
            yield part


def train_epoch(
    policy: ClonePolicy,
    optimizer: torch.optim.Optimizer,
    vectors: Tensor,
    actions: Tensor,
    *,
    batch: int,
    generator: torch.Generator,
) -> float:
    """Descend the squared error once over all samples and return its mean before each step."""
    policy.train()
    losses = []
    for part in shuffled(len(vectors), batch, generator):
        loss = nn.functional.mse_loss(policy(vectors[part]), actions[part])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses) / max(1, len(losses))
