"""Which samples make which batch, and the random numbers of each sample: functions of (seed, epoch, index) alone.

So the data of a run do not depend on the number of workers, and a resumed run goes on at the next batch bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from vos_core.errors import UsageError


class DrawDataset(Protocol):
    """Samples that are drawn, not stored: all randomness comes from `rng`, all scheduling from `epoch`."""

    def __len__(self) -> int: ...

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> Any:
        """Return sample `index` as tensors, arrays or a mapping of them."""
        ...


class BatchPlan(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) pairs for one rank, without end, from any position.

    Every epoch shuffles all indices by (seed, epoch) and cuts them into global batches of `batch * world`, of which rank r takes
    the r-th slice; the rest is dropped. So two ranks with batch b see together what one rank with batch 2b sees.

    Args:
        length: number of samples.
        batch: samples a rank takes at once.
        rank: this rank.
        world: number of ranks.
        seed: of the shuffles.
        start: batches already done since the run began.

    Raises:
        UsageError: fewer samples than one global batch.
    """

    def __init__(self, length: int, batch: int, *, rank: int = 0, world: int = 1, seed: int = 0, start: int = 0) -> None:
        if length < batch * world:
            raise UsageError(
                f"the training set has {length} samples, fewer than one batch of {batch} on {world} rank(s)",
                fix="Lower --batch-size or add data",
            )
        self.length, self.batch, self.rank, self.world, self.seed, self.start = length, batch, rank, world, seed, start

    @property
    def batches_per_epoch(self) -> int:
        """Batches that a rank takes in one epoch."""
        return self.length // (self.batch * self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, offset = divmod(self.start, self.batches_per_epoch)
        while True:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            for k in range(offset, self.batches_per_epoch):
                first = (k * self.world + self.rank) * self.batch
                yield [(epoch, int(index)) for index in order[first : first + self.batch]]
            epoch, offset = epoch + 1, 0


class _Drawn(Dataset[Any]):
    def __init__(self, dataset: DrawDataset, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __getitem__(self, key: Any) -> Any:
        epoch, index = key
        return self.dataset.draw(index, epoch=epoch, rng=np.random.default_rng((self.seed, epoch, index)))


class Mixture:
    """Several data sets as one, each repeated a number of times.

    Args:
        parts: (data set, repeats) in order.
    """

    def __init__(self, parts: Sequence[tuple[DrawDataset, int]]) -> None:
        self.rows = [(part, index) for part, repeats in parts for _ in range(repeats) for index in range(len(part))]

    def __len__(self) -> int:
        return len(self.rows)

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> Any:
        """Return the sample that row `index` of the concatenation names."""
        part, row = self.rows[index]
        return part.draw(row, epoch=epoch, rng=rng)


def batch_stream(
    dataset: DrawDataset,
    plan: BatchPlan,
    *,
    workers: int = 0,
    collate: Callable[[list[Any]], Any] | None = None,
    pin_memory: bool = False,
    prefetch: int = 2,
) -> Iterator[Any]:
    """Yield batches of `dataset` as `plan` orders them, without end; `workers` processes decode `prefetch` batches ahead each."""
    loader: DataLoader[Any] = DataLoader(
        _Drawn(dataset, plan.seed),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(plan.seed),  # else it draws from the global one, and a resumed run is shifted
        pin_memory=pin_memory,
        prefetch_factor=prefetch if workers else None,
        persistent_workers=workers > 0,
        multiprocessing_context="spawn" if workers else None,  # forking after OpenMP or CUDA threads started can hang
    )
    return iter(loader)
