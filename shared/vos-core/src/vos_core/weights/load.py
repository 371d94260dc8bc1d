"""Checkpoint files in: tensors only, no pickled code, whatever wrapper or prefix they were saved with."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vos_core.errors import WeightsError
from vos_core.weights.manifest import shared_prefix
from vos_core.weights.web_page import is_web_page

if TYPE_CHECKING:
    import torch

WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "network", "net", "params", "module")
"""Outer keys under which training scripts save the network, in the order they are looked for."""


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Return the network's tensors in a checkpoint, on the CPU and memory-mapped where the format allows.

    Known wrappers (`WRAPPERS`) are opened; the prefixes `module.`, `_orig_mod.` and `model.` are stripped if all keys
    share them. Epochs, optimisers and other things beside the network are left out.

    Args:
        path: a PyTorch file (zip or older format) or a safetensors file, told apart by content.

    Raises:
        WeightsError: the file is absent, truncated, holds code, or holds no network.
    """
    state = find_state(read_checkpoint(path), source=str(path))
    prefix = shared_prefix(state)
    return {key.removeprefix(prefix): value for key, value in state.items()} if prefix else state


def read_checkpoint(path: Path) -> Any:
    """Return everything in a checkpoint file as it is: tensors, plain values, and lists and mappings of them.

    For files that are more than a network. `argparse.Namespace` and NumPy numbers, which training scripts leave in
    their files, are allowed; any other class or function in the file is refused before it could run.

    Raises:
        WeightsError: the file is absent, truncated, of no known format, or holds code.
    """
    start = _first_bytes(path)
    try:
        if _is_safetensors(start):
            from safetensors.torch import load_file

            return load_file(path, device="cpu")
        return _torch_load(path, mmap=start.startswith(b"PK"))
    except Exception as error:  # torch raises anything from EOFError to KeyError on a bad file
        raise _explained(path, start, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; {} for other formats, which have none."""
    if not _is_safetensors(_first_bytes(path)):
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _explained(path, b"", error) from error


def find_state(content: Any, *, source: str) -> dict[str, torch.Tensor]:
    """Return the tensors by key in what `read_checkpoint` returned, known wrappers opened, prefixes kept.

    Args:
        content: a state dict, possibly wrapped.
        source: what it is called in errors.

    Raises:
        WeightsError: there is no state dict, or tensors lie beside groups of tensors.
    """
    import torch

    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if _holds_tensors(content.get(key))), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise WeightsError(f"{source} holds a {type(content).__name__}", expected="a mapping of names to tensors")
    tensors = {str(key): value.detach() for key, value in content.items() if isinstance(value, torch.Tensor)}
    groups = [str(key) for key, value in content.items() if _holds_tensors(value)]
    if not tensors or groups:
        keys = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise WeightsError(
            f"{source} holds no plain state dict (its outer keys: {keys})",
            expected=f"names and tensors, bare or under one of: {', '.join(WRAPPERS)}",
        )
    return tensors


def _holds_tensors(value: Any) -> bool:
    import torch

    return isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) or _holds_tensors(item) for item in value.values())


def _torch_load(path: Path, *, mmap: bool) -> Any:
    import numpy as np
    import torch

    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float16", "float32", "float64")}
    # Written by NumPy 1 and 2 under two module names.
    names: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar")]
    with torch.serialization.safe_globals([argparse.Namespace, np.dtype, *kinds, *names]):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(512)
    except IsADirectoryError as error:
        raise WeightsError(f"weights {path} are a folder", expected="a checkpoint file") from error
    except FileNotFoundError as error:
        raise WeightsError(f"weights file {path} does not exist", fix="Check the path") from error
    except OSError as error:
        raise WeightsError(f"weights file {path} cannot be read ({error.strerror})", fix="Check its permissions") from error


def _is_safetensors(start: bytes) -> bool:
    # Eight bytes of header length, then the header's JSON.
    return len(start) > 9 and start[8:9] == b"{" and 0 < int.from_bytes(start[:8], "little") < 1 << 27


def _explained(path: Path, start: bytes, error: Exception) -> WeightsError:
    text = str(error)
    again = "It is truncated or not a checkpoint: download it again"
    if is_web_page(start):
        return WeightsError(f"weights file {path} is a web page", expected="a checkpoint", fix="Download the file itself")
    if "TorchScript" in text:
        return WeightsError(
            f"weights file {path} is a compiled TorchScript program, which is code",
            expected="tensors",
            fix="Save its state_dict()",
        )
    if "Weights only load failed" in text and (named := re.search(r"GLOBAL ([\w.]+)|[Uu]nsupported class ([\w.]+)", text)):
        return WeightsError(
            f"weights file {path} holds code or objects ({named[1] or named[2]}), which could run anything",
            expected="tensors and plain values only",
            fix="Get it from its authors as a state dict or safetensors file",
        )
    # Only the first sentence: torch's next ones advise to load without weights_only, which would run what the file holds.
    sentence = next(iter(text.splitlines()), "").split(". ")[0][:200]
    return WeightsError(f"weights file {path} cannot be read ({type(error).__name__}: {sentence})", fix=again)
