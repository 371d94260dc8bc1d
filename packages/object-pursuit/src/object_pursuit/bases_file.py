"""Bases as files, one per object of joint pretraining."""

from __future__ import annotations

from pathlib import Path

from object_pursuit.parts import load_parts
from object_pursuit.weights import write_code


def write_bases(weights: Path, out: Path, *, codes_only: bool = False) -> list[Path]:
    """Write `base_NNNN.pth` for each code of a joint checkpoint and return the files; those that are there already are kept.

    Args:
        weights: joint checkpoint.
        out: made if absent.
        codes_only: leave out the weights that each code generates.

    Raises:
        UsageError: no such checkpoint.
        WeightsError: it cannot be read.
        OutputError: a file that cannot be written.
    """
    import torch

    parts = load_parts(weights)
    files = []
    for index, code in enumerate(parts.codes):
        path = out / f"base_{index:04d}.pth"
        if not path.exists():
            with torch.no_grad():
                write_code(path, code, None if codes_only else parts.hypernet(code))
        files.append(path)
    return files
