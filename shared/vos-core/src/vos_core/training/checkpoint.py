"""Files that a killed run goes on from: weights, optimiser, scaler, average, random state and position."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vos_core.errors import WeightsError
from vos_core.io.atomic import replacing
from vos_core.weights.load import read_checkpoint


def random_state() -> dict[str, Any]:
    """Return the state of Python's, NumPy's and torch's generators as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, internal, extra = random.getstate()
    return {
        "python": [version, list(internal), extra],
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Set the generators to what `random_state` returned; GPU states only where there are as many GPUs."""
    version, internal, extra = state["python"]
    random.setstate((version, tuple(internal), extra))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, mappings) atomically; equal states make equal bytes."""
    with replacing(path) as temporary, temporary.open("wb") as file:  # given a path, torch would write its random name inside
        torch.save(dict(state), file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Return what `save_checkpoint` wrote; only tensors and plain values are read, never code.

    Raises:
        WeightsError: the file is absent, truncated or holds anything else.
    """
    state = read_checkpoint(path)
    if not isinstance(state, dict):
        raise WeightsError(f"checkpoint {path} holds a {type(state).__name__}", expected="a mapping")
    return state


def newest_checkpoint(folder: Path, *, pattern: str = r"checkpoint_(\d+)\.pth") -> Path | None:
    """Return the file in `folder` whose name matches `pattern` with the largest number, or None."""
    if not folder.is_dir():
        return None
    numbered = [(int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name))]
    return max(numbered)[1] if numbered else None


def drop_old_checkpoints(folder: Path, *, keep: int, pattern: str = r"checkpoint_(\d+)\.pth") -> None:
    """Delete all but the `keep` newest files that match `pattern`."""
    numbered = sorted((int(match[1]), path) for path in folder.iterdir() if (match := re.fullmatch(pattern, path.name)))
    for _, path in numbered[: max(0, len(numbered) - keep)]:
        path.unlink(missing_ok=True)
