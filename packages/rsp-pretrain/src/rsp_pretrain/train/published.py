"""Checkpoint files in the published layout: `checkpoint-{epoch}.pth` with model, optimizer, epoch, scaler and args."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vos_core.errors import UsageError, WeightsError
from vos_core.training.checkpoint import load_checkpoint, save_checkpoint
from vos_core.training.loop import TrainingState


def saved_epochs(epochs: int, *, every: int = 50, last: int = 2) -> list[int]:
    """Return the epochs, from 0, after which the published layout saves: multiples of `every` and the `last` ones.

    >>> saved_epochs(200)
    [0, 50, 100, 150, 198, 199]
    """
    return [epoch for epoch in range(epochs) if epoch % every == 0 or epoch >= epochs - last]


def write_published(path: Path, state: TrainingState, *, epoch: int, args: Mapping[str, Any]) -> None:
    """Write a checkpoint that the original's commands read; `args` is a mapping, not a pickled object."""
    save_checkpoint(
        path,
        {
            "model": state.model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "epoch": epoch,
            "scaler": state.scaler.state_dict(),
            "args": dict(args),
        },
    )


def restore_published(path: Path, state: TrainingState) -> int:
    """Take over weights, optimiser and scaler of a published checkpoint, strictly; return its epoch.

    Raises:
        WeightsError: it cannot be read or does not fit.
    """
    content = load_checkpoint(path)
    absent = [key for key in ("model", "optimizer", "epoch") if key not in content]
    if absent:
        raise WeightsError(
            f"{path} has no {', '.join(absent)}",
            expected="a training checkpoint with model, optimizer, epoch, scaler and args",
            fix="To start from weights alone, pass them as --init",
        )
    rates = [group["initial_lr"] for group in state.optimizer.param_groups]
    try:
        state.model.load_state_dict(content["model"])
        state.optimizer.load_state_dict(content["optimizer"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path} does not fit this network ({error})", fix="Repeat its --model and objective") from error
    for group, rate in zip(state.optimizer.param_groups, rates, strict=True):
        group["initial_lr"] = rate
    if content.get("scaler"):
        state.scaler.load_state_dict(content["scaler"])
    return int(content["epoch"])


def checkpoint_file(place: str) -> Path:
    """Return the file that `--resume` names: a path, or an https address, downloaded once into the cache folder.

    A hash in the file's name (`name-0123abcd.pth`, as model hubs write it) is checked.

    Raises:
        UsageError: neither a file nor an address.
        WeightsError: the download failed or has another hash.
    """
    if not place.startswith(("https://", "http://")):
        path = Path(place)
        if not path.is_file():
            raise UsageError(f"--resume {place} does not exist", expected="a checkpoint file or an https address")
        return path
    import hashlib
    import re
    from urllib.parse import urlsplit

    from vos_core.weights.cache import exclusive, sha256_of, weights_folder
    from vos_core.weights.download import fetch

    name = Path(urlsplit(place).path).name or "checkpoint.pth"
    target = weights_folder() / "rsp-pretrain" / "resumed" / f"{hashlib.sha256(place.encode()).hexdigest()[:12]}-{name}"
    with exclusive(target):
        if not target.is_file():
            fetch(place, target, label=name)
    named = re.search(r"-([0-9a-f]{8,64})\.\w+$", name)
    if named and not sha256_of(target).startswith(named[1]):
        raise WeightsError(
            f"{target} has sha256 {sha256_of(target)}",
            expected=f"one that begins {named[1]}",
            fix="Delete it and try again",
        )
    return target
