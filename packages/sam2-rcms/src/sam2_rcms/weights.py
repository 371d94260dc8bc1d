"""The released checkpoints: where they are, what keys they have, and networks with weights in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sam2_rcms.config import TRUNKS, Size
from vos_core.errors import WeightsError
from vos_core.weights.manifest import Manifest, read_manifest
from vos_core.weights.registry import WeightsEntry
from vos_core.weights.registry import register as _register_entry

if TYPE_CHECKING:
    from torch import Tensor

    from sam2_rcms.model import SAM2

METHOD_NAME = "sam2-rcms"
_META = "https://dl.fbaipublicfiles.com/segment_anything_2/092824"
_MOSE = "https://huggingface.co/FudanCVL/MOSEv2_baseline/resolve/main"
_MOSE_PAGE = "https://huggingface.co/FudanCVL/MOSEv2_baseline"
_META_PAGE = "https://github.com/facebookresearch/sam2"

_RELEASED: dict[str, tuple[Size, str, str, str]] = {
    # name -> size, URL, page, notes
    "sam2.1_hiera_b+_MOSEv2_mss_lvt16": (
        "base_plus",
        f"{_MOSE}/sam2.1_hiera_b+_MOSEv2_mss_lvt16.pt",
        _MOSE_PAGE,
        "base+, fine-tuned on MOSEv2: 51.5 J&F-dot on MOSEv2 valid as published; use variant b+_rcms",
    ),
    "sam2.1_hiera_l_MOSEv2_mss_lvt16": (
        "large",
        f"{_MOSE}/sam2.1_hiera_l_MOSEv2_mss_lvt16.pt",
        _MOSE_PAGE,
        "large, fine-tuned on MOSEv2: 54.4 J&F-dot on MOSEv2 valid as published; use variant l_rcms",
    ),
    "sam2.1_hiera_tiny": ("tiny", f"{_META}/sam2.1_hiera_tiny.pt", _META_PAGE, "SAM 2.1 tiny as released"),
    "sam2.1_hiera_small": ("small", f"{_META}/sam2.1_hiera_small.pt", _META_PAGE, "SAM 2.1 small as released"),
    "sam2.1_hiera_base_plus": ("base_plus", f"{_META}/sam2.1_hiera_base_plus.pt", _META_PAGE, "SAM 2.1 base+ as released"),
    "sam2.1_hiera_large": ("large", f"{_META}/sam2.1_hiera_large.pt", _META_PAGE, "SAM 2.1 large as released"),
}
OLD_KEYS = ("no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias")
"""What SAM 2.0 checkpoints lack."""


def manifest(size: Size) -> Manifest:
    """Return key -> (shape, dtype) of the checkpoints of a size; the same at every image size."""
    return read_manifest(Path(__file__).with_name("keys") / f"sam2.1_hiera_{size}.keys.json")


def register() -> None:
    """Add the released checkpoints to the registry of weights."""
    for name, (size, url, page, notes) in _RELEASED.items():
        _register_entry(
            WeightsEntry(
                name=name,
                method=METHOD_NAME,
                url=url,
                licence="Apache-2.0",
                source=page,
                manifest=Path(__file__).with_name("keys") / f"sam2.1_hiera_{size}.keys.json",
                notes=notes,
            )
        )


def load_network(path: Path | None, size: Size = "base_plus", *, seed: int = 0) -> SAM2:
    """Return a network in evaluation mode with the weights of a checkpoint file, or seeded untrained ones.

    Args:
        path: `{"model": state dict}` as released, a bare state dict, a training checkpoint or safetensors; None = untrained.
        size: which image encoder.
        seed: for untrained weights.

    Raises:
        WeightsError: the file cannot be read, is of SAM 2.0, or does not fit the size.
    """
    import torch

    from sam2_rcms.model import SAM2
    from vos_core.weights.load import load_state

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SAM2(size)
    if path is not None:
        load_into(network, load_state(path), source=str(path))
    return network.eval()


def load_into(network: SAM2, state: dict[str, Tensor], *, source: str) -> None:
    """Copy a state dict into `network`; every key must fit.

    Raises:
        WeightsError: it does not, or the checkpoint is of SAM 2.0.
    """
    from vos_core.weights.strict import load_strict

    if "memory_attention.norm.weight" in state and not any(key in state for key in OLD_KEYS):
        raise WeightsError(
            f"{source} is a checkpoint of SAM 2.0: it has no {OLD_KEYS[0]} and no obj_ptr_tpos_proj",
            expected="a SAM 2.1 checkpoint, whose names begin with sam2.1_hiera",
            fix="Download SAM 2.1 weights, for example: vos weights download sam2.1_hiera_base_plus",
        )
    load_strict(network, state, source=source, variants={size: manifest(size) for size in _sizes()})  # type: ignore[arg-type]


def _sizes() -> tuple[str, ...]:
    return tuple(TRUNKS)
