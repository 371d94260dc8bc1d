"""Device, precision, threads and seeds: chosen once for a run, refused clearly when the machine lacks them."""

from __future__ import annotations

import os
import random
import sys
from typing import TYPE_CHECKING

from vos_core.contract import Precision
from vos_core.errors import UsageError

if TYPE_CHECKING:
    import torch


def choose_device(name: str = "auto") -> str:
    """Return a device that exists: `cpu` or `cuda:<index>`; `auto` takes CUDA where there is one.

    >>> choose_device("cpu")
    'cpu'

    Raises:
        UsageError: an unknown name, or a CUDA device that this machine or this torch build lacks.
    """
    kind, _, index = name.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"unknown device '{name}'", expected="auto, cpu, cuda or cuda:<index>")
    if kind == "cpu":
        return "cpu"
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return "cuda:0" if count else "cpu"
    if not count:
        built = "this torch build has no CUDA" if torch.version.cuda is None else "no CUDA device is visible"
        raise UsageError(f"device '{name}' is not there: {built}", fix="Use --device cpu, or see: vos doctor")
    if int(index or 0) >= count:
        raise UsageError(f"device '{name}' is not there", expected=f"an index from 0 to {count - 1}")
    return f"cuda:{int(index or 0)}"


def torch_device(name: str) -> torch.device:
    """Return the torch device called `name`, whether or not this machine has it.

    Raises:
        UsageError: torch knows no such device.
    """
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{name}'", expected="cpu, cuda or cuda:<index>") from error


def torch_dtype(precision: Precision, device: str) -> torch.dtype:
    """Return the dtype that a segmenter's layers compute in.

    Raises:
        UsageError: fp16 on a CPU.
    """
    import torch

    if precision == "fp16" and device == "cpu":
        raise UsageError("precision fp16 on a CPU is far slower than fp32", fix="Use bf16 or fp32, or a CUDA device")
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def check_precision(precision: Precision, device: str) -> None:
    """Raise `UsageError` unless `device` computes in `precision`."""
    if precision not in ("fp32", "bf16", "fp16"):
        raise UsageError(f"unknown precision '{precision}'", expected="fp32, bf16 or fp16")
    if precision == "bf16" and device.startswith("cuda"):
        import torch

        if not torch.cuda.is_bf16_supported():
            raise UsageError(f"{torch.cuda.get_device_name(device)} has no bf16", fix="Use --precision fp16 or fp32")


def apply_threads(threads: int | None) -> None:
    """Limit the CPU threads of OpenCV and, once it is imported, torch; None leaves their defaults."""
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"{threads} threads", expected="1 or more")
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by torch when a method imports it later
    import cv2

    cv2.setNumThreads(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


def apply_numerics(precision: Precision, device: str) -> None:
    """Make CUDA runs repeatable, and float32 mean float32 (no TF32) on the parity path; nothing to do on CPU."""
    if not device.startswith("cuda"):
        return
    import torch

    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    if precision == "fp32":
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, once it is imported, torch."""
    import numpy as np

    random.seed(seed)
    np.random.seed(seed % 2**32)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


def synchronize(device: str) -> None:
    """Wait until `device` has finished what was asked of it, so that a clock read next is honest."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)
