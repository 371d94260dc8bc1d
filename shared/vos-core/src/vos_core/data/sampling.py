"""Deterministic workers and dense object ids for training samplers."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vos_core.errors import UsageError
from vos_core.types import LabelMap

_SEEDS = 2**32


def seed_worker(worker: int, *, base: int) -> int:
    """Seed Python's and NumPy's random generators of this process with `base + worker` and return that seed."""
    seed = (base + worker) % _SEEDS
    random.seed(seed)
    np.random.seed(seed)
    return seed


@dataclass(frozen=True, slots=True)
class WorkerSeed:
    """A `worker_init_fn` for a torch `DataLoader`, picklable: worker `i` gets `base + i`, torch's generator too.

    Args:
        base: seed of worker 0; give each epoch or rank its own.
    """

    base: int

    def __call__(self, worker: int) -> None:
        """Seed Python, NumPy and torch in this process."""
        import torch

        torch.manual_seed(seed_worker(worker, base=self.base))


@dataclass(frozen=True, slots=True)
class IdMap:
    """Original object ids, in ascending order, and their dense numbers 1, 2, ...

    >>> IdMap.of([5, 2]).ids
    (2, 5)
    """

    ids: tuple[int, ...]

    @classmethod
    def of(cls, ids: Iterable[int]) -> IdMap:
        """Return the map of these ids; raises `UsageError` for one outside 1-65535."""
        ordered = tuple(sorted(set(ids)))
        if ordered and not (ordered[0] > 0 and ordered[-1] < 2**16):
            raise UsageError(f"object ids {ordered}", expected="numbers from 1 to 65535")
        return cls(ordered)

    def to_dense(self, labels: LabelMap) -> npt.NDArray[np.uint16]:
        """Return uint16 `(H, W)` with dense numbers; labels that are not in the map become background."""
        table = np.zeros(2**16, np.uint16)
        table[list(self.ids)] = np.arange(1, len(self.ids) + 1, dtype=np.uint16)
        return table[labels]

    def to_original(self, dense: npt.NDArray[np.integer]) -> LabelMap:
        """Return the label map with original ids, uint8 where they fit; raises `UsageError` for a number beyond the map."""
        highest = int(dense.max(initial=0))
        if highest > len(self.ids):
            raise UsageError(f"dense label {highest}", expected=f"at most {len(self.ids)}, the number of objects")
        kind = np.uint8 if max(self.ids, default=0) < 2**8 else np.uint16
        return np.array([0, *self.ids], kind)[dense]
