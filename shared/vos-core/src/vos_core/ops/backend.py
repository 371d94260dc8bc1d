"""One switch for which library or algorithm computes an op: torch, OpenCV, Triton, Winograd.

`auto` takes Triton for CUDA tensors where it is installed and the op's CPU library otherwise. The environment variable
`VOS_OPS`, `set_backends` (what `--ops` calls) and `use_backends` override it, for all ops (`torch`) or for some
(`components=opencv,topk_readout=triton`).
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType

import torch
from torch import Tensor

from vos_core.errors import UsageError

VARIABLE = "VOS_OPS"
OPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "topk_readout": ("torch", "triton"),
        "local_attention": ("torch", "triton"),
        "components": ("opencv", "triton"),
        "morphology": ("opencv", "torch"),
        "conv3x3": ("winograd", "torch"),
    }
)
"""The backends of each op; the first one is what `auto` takes on a CPU."""
_ON_CUDA: Mapping[str, str] = MappingProxyType({op: "triton" if "triton" in names else "torch" for op, names in OPS.items()})
_choice: ContextVar[Mapping[str, str] | None] = ContextVar("vos_ops", default=None)


def parse_backends(text: str) -> dict[str, str]:
    """Return op -> backend from `auto`, one backend for all ops that have it, or a list `op=backend,...`.

    >>> parse_backends("torch")["local_attention"], parse_backends("torch")["components"]
    ('torch', 'auto')

    Raises:
        UsageError: an unknown op or backend, or a backend that the named op does not have.
    """
    chosen = dict.fromkeys(OPS, "auto")
    for part in filter(None, (item.strip() for item in text.split(","))):
        op, separator, name = part.partition("=")
        if not separator:
            _check(part, {"auto", *(name for names in OPS.values() for name in names)}, "ops backend")
            chosen.update({known: part for known, names in OPS.items() if part in names or part == "auto"})
            continue
        _check(op, set(OPS), "op")
        _check(name, {"auto", *OPS[op]}, f"backend for {op}")
        chosen[op] = name
    return chosen


def set_backends(text: str) -> None:
    """Use these backends from now on in this process and those it starts; see `parse_backends` for the form."""
    parse_backends(text)
    os.environ[VARIABLE] = text


@contextmanager
def use_backends(text: str) -> Iterator[None]:
    """Use these backends inside a `with` block, in this thread only; see `parse_backends` for the form."""
    token = _choice.set(parse_backends(text))
    try:
        yield
    finally:
        _choice.reset(token)


def backend_of(op: str, tensor: Tensor) -> str:
    """Return the backend that computes `op` for `tensor`: one of `OPS[op]`.

    Raises:
        UsageError: Triton is asked for and cannot run here, or OpenCV is asked for a tensor that is not on the CPU.
    """
    chosen = _choice.get()
    if chosen is None:
        chosen = parse_backends(os.environ.get(VARIABLE, "auto"))
    name = chosen[op]
    if name == "auto":
        return _auto(op, tensor)
    if name == "triton":
        _check_triton(op, tensor)
    if name == "opencv" and tensor.device.type != "cpu":
        raise UsageError(f"op {op} is set to opencv and got a tensor on {tensor.device}", fix=f"Set {VARIABLE}={op}=auto")
    return name


def triton_installed() -> bool:
    """Say whether Triton can be imported."""
    return importlib.util.find_spec("triton") is not None


def full_precision(tensor: Tensor) -> torch.autocast:
    """Return a context in which matrix products on the tensor's device keep their dtype, whatever autocast is around.

    Squared distances of 64 channels lose the ranking of near neighbours in half precision.
    """
    return torch.autocast(tensor.device.type, enabled=False)


def _auto(op: str, tensor: Tensor) -> str:
    if not tensor.is_cuda:
        # OpenCV reads host memory only; other accelerators go through torch where the op has it.
        return OPS[op][0] if tensor.device.type == "cpu" or "torch" not in OPS[op] else "torch"
    if _ON_CUDA[op] == "triton" and not triton_installed():
        return OPS[op][0]
    return _ON_CUDA[op]


def _check_triton(op: str, tensor: Tensor) -> None:
    if not triton_installed():
        raise UsageError(f"op {op} is set to triton, which is not installed", fix=f"Install triton, or set {VARIABLE}={op}=auto")
    if not tensor.is_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise UsageError(
            f"op {op} is set to triton and got a tensor on {tensor.device}",
            expected="a CUDA tensor",
            fix=f"Set {VARIABLE}={op}=auto, or TRITON_INTERPRET=1 to debug a kernel on the CPU",
        )


def _check(name: str, known: set[str], what: str) -> None:
    if name not in known:
        raise UsageError(f"unknown {what} '{name}'", expected=f"one of {', '.join(sorted(known))}")
