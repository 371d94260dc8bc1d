"""Checkpoints to and from safetensors, and networks out of training files that hold more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vos_core.__about__ import __version__
from vos_core.errors import UsageError, WeightsError
from vos_core.io.atomic import replacing
from vos_core.weights.cache import sha256_of
from vos_core.weights.load import load_state, read_metadata

if TYPE_CHECKING:
    import torch

TORCH_SUFFIXES = frozenset({".pth", ".pt"})


def convert(source: Path, target: Path, *, wrapper: str = "", metadata: Mapping[str, str] | None = None) -> int:
    """Write the network in `source` to `target`, in the format of its suffix; return the number of tensors.

    Wrappers, prefixes and everything beside the network are left out. A safetensors file also says where it came from:
    the source's own metadata, its name and sha256.

    Args:
        source: any file that `load_state` reads.
        target: `.safetensors`, `.pth` or `.pt`.
        wrapper: outer key of a PyTorch file, for example `model`; "" = bare.
        metadata: further metadata of a safetensors file.

    Raises:
        WeightsError: `source` cannot be read.
        UsageError: unknown suffix, or a wrapper or metadata that the format cannot hold.
        OutputError: `target` cannot be written.
    """
    _check(target, wrapper=wrapper, metadata=metadata or {})  # before the slow part
    state = load_state(source)
    if target.suffix == ".safetensors":
        origin = {"source": source.name, "source_sha256": sha256_of(source), "writer": f"vos-core {__version__}"}
        metadata = {**read_metadata(source), **origin, **(metadata or {})}
    save_state(target, state, wrapper=wrapper, metadata=metadata)
    return len(state)


def save_state(
    path: Path, state: Mapping[str, torch.Tensor], *, wrapper: str = "", metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to `path` atomically, in the format of its suffix; arguments and errors as for `convert`."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    _check(path, wrapper=wrapper, metadata=metadata or {})
    # Copies: a view would bring its whole storage into the file, and safetensors takes no shared ones.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
    with replacing(path) as temporary:
        if path.suffix in TORCH_SUFFIXES:
            torch.save({wrapper: tensors} if wrapper else tensors, temporary)
            return
        try:
            save_file(tensors, temporary, metadata=dict(metadata or {}))
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{path} cannot hold these tensors ({error})", fix="Write a .pth file") from error


def _check(path: Path, *, wrapper: str, metadata: Mapping[str, str]) -> None:
    if path.suffix not in TORCH_SUFFIXES and path.suffix != ".safetensors":
        raise UsageError(f"weights cannot be written to {path}", expected="a name that ends in .safetensors, .pth or .pt")
    if wrapper and path.suffix not in TORCH_SUFFIXES:
        raise UsageError(f"{path} cannot have the outer key '{wrapper}'", expected="a .pth or .pt file for it")
    if metadata and path.suffix in TORCH_SUFFIXES:
        raise UsageError(f"{path} cannot have metadata", expected="a .safetensors file for them")
