"""Ranks as torchrun starts them; everything works unchanged in one process."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from vos_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Ranks:
    """Place of this process: `rank` of `world`, `local` on its node, and the device it trains on."""

    rank: int = 0
    world: int = 1
    local: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def wrap(self, model: nn.Module, *, find_unused: bool = False) -> nn.Module:
        """Return `model` for the forward pass: itself alone, else in DistributedDataParallel without buffer broadcasts.

        Batch norm statistics are not averaged over ranks: the recipes here keep them frozen or per rank, as their papers do.
        """
        if self.world == 1:
            return model
        for parameter in model.parameters():
            if parameter.requires_grad and 1 in parameter.shape:
                parameter.register_hook(plain_strides)  # type: ignore[no-untyped-call]
        devices = [self.device.index] if self.device.type == "cuda" else None
        # The option was renamed; newer torch warns of the old name at every start.
        known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
        off: dict[str, Any] = {"forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers": False}
        return nn.parallel.DistributedDataParallel(model, device_ids=devices, find_unused_parameters=find_unused, **off)

    def mean(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return each value averaged over ranks; every rank must call with the same keys."""
        if self.world == 1 or not values:
            return dict(values)
        names = sorted(values)  # ranks may have filled their mappings in different orders
        stacked = torch.tensor([values[name] for name in names], dtype=torch.float64, device=_reduce_device(self))
        torch.distributed.all_reduce(stacked)
        means = dict(zip(names, (stacked / self.world).tolist(), strict=True))
        return {name: means[name] for name in values}  # logs show the first ones: the same on one rank and on many

    def any(self, flag: bool) -> bool:
        """Return whether `flag` holds on any rank."""
        return self.mean({"flag": float(flag)})["flag"] > 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            torch.distributed.barrier()


@contextmanager
def ranks_from_environment(device: str = "cpu") -> Iterator[Ranks]:
    """Yield this process's `Ranks` from torchrun's RANK, WORLD_SIZE and LOCAL_RANK; leave the process group at the end.

    Args:
        device: `cpu`, `cuda` or `cuda:i`; with several ranks on `cuda`, rank i of a node takes its GPU i.

    Raises:
        UsageError: half of torchrun's variables are set; none is, but srun or mpirun started several processes, each of which
            would train alone into one folder; or there are fewer GPUs than local ranks.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    values = [os.environ.get(name) for name in names]
    if all(value is None for value in values):
        _check_launcher()
        yield Ranks(device=torch.device(device))
        return
    missing = [name for name, value in zip(names, values, strict=True) if value is None]
    if missing:
        raise UsageError(
            f"{', '.join(missing)} not set", expected="all of torchrun's variables or none", fix="Start with torchrun"
        )
    rank, world, local = (int(value) for value in values if value is not None)
    cuda = torch.device(device).type == "cuda"
    if cuda and local >= torch.cuda.device_count():
        raise UsageError(f"local rank {local} has no GPU ({torch.cuda.device_count()} present)", fix="Lower --nproc-per-node")
    place = torch.device("cuda", local) if cuda else torch.device(device)
    if cuda:
        torch.cuda.set_device(place)
    torch.distributed.init_process_group("nccl" if cuda else "gloo", rank=rank, world_size=world)
    try:
        yield Ranks(rank=rank, world=world, local=local, device=place)
    finally:
        torch.distributed.destroy_process_group()


def _check_launcher() -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        if int(os.environ.get(name) or 1) > 1:
            raise UsageError(
                f"{os.environ[name]} processes were started ({name}) without the variables of torchrun",
                fix="Start torchrun --nproc-per-node N -m <package> train, by srun or mpirun once on each node",
            )


def plain_strides(gradient: torch.Tensor) -> torch.Tensor:
    """Return a contiguous gradient with row-major strides in its axes of length 1, too; others as they are.

    Of a 1x1 convolution in channels-last order, those strides differ from the weight's. That means nothing in memory, but
    DistributedDataParallel compares them and warns.
    """
    return gradient.flatten().view(gradient.shape) if gradient.is_contiguous() else gradient


def _reduce_device(ranks: Ranks) -> torch.device:
    return ranks.device if ranks.device.type == "cuda" else torch.device("cpu")
