"""Forgetting prevention: a new base must not change what the hypernetwork makes of earlier codes (paper, section 3.4)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from object_pursuit.data.order import remembered_picks
from object_pursuit.model import Hypernet

Targets = Callable[[], Mapping[str, Tensor]]
"""Returns the weights that a code generated when it was saved."""
_PASS_ELEMENTS = 2**25
"""Numbers in the widest maps of one pass over several codes: few codes at a time where the table is large."""


class Rehearsal:
    """Remembered codes with the weights they must go on generating.

    Args:
        codes: `(n, z_dim)`.
        targets: of each code; called when the code is rehearsed, so files can stay on disk.
        rng: draws which codes a step rehearses.
    """

    def __init__(self, codes: Tensor, targets: Sequence[Targets], *, rng: random.Random) -> None:
        if len(codes) != len(targets):
            raise ValueError(f"{len(codes)} codes, {len(targets)} targets")
        self.codes, self.targets, self.rng = codes.detach(), list(targets), rng

    def __len__(self) -> int:
        return len(self.targets)

    def pick(self) -> list[int]:
        """Return which codes the next step rehearses: all up to 10, else a fifth."""
        return remembered_picks(len(self), self.rng) if len(self) else []

    def norms(self, weights: Mapping[str, Tensor], picks: Sequence[int]) -> Tensor:
        """Return ‖ψ(z_i)_t − saved_t‖₂ as `(len(picks), tensors)`; gradients flow into `weights`, 0 where the norm is 0.

        Args:
            weights: what the hypernetwork makes of the picked codes, codes first.
            picks: indices of those codes.
        """
        saved = [self.targets[pick]() for pick in picks]
        columns = []
        for name, value in weights.items():
            pairs = zip(value, saved, strict=True)
            columns.append(torch.stack([torch.linalg.vector_norm(own - target[name].to(own)) for own, target in pairs]))
        return torch.stack(columns, 1)

    def backward(self, hypernet: Hypernet, *, weight: float) -> float:
        """Draw codes and add the gradients of `weight` * Σ_i Σ_t norm to the hypernetwork's; return that sum."""
        total = 0.0
        for chunk in chunks(self.pick(), codes_per_pass(hypernet)):
            weights = hypernet(self.codes[chunk])
            loss = weight * self.norms(weights, chunk).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total


def codes_per_pass(hypernet: Hypernet) -> int:
    """Return how many codes one pass may hold without its maps growing beyond what one code of the largest table needs."""
    return max(1, _PASS_ELEMENTS // hypernet.widest_map)


def chunks(picks: Sequence[int], size: int) -> list[list[int]]:
    """Return `picks` cut into lists of at most `size`."""
    return [list(picks[first : first + size]) for first in range(0, len(picks), size)]
