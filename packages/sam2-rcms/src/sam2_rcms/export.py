"""Networks out of training checkpoints, written as released weights are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2_rcms.config import TRUNKS, Size
from sam2_rcms.weights import manifest
from vos_core.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the size that the network is of, its tensors and the numbers in them."""

    size: Size
    keys: int
    numbers: int


def export_checkpoint(source: Path, target: Path, *, ema: bool = False) -> Exported:
    """Write the network in `source` to `target`: `{"model": tensors}`, or safetensors by the suffix.

    Args:
        source: a checkpoint of `sam2-rcms train` or of the original's training, or any file of SAM 2.1 weights.
        target: ends in .pt, .pth or .safetensors.
        ema: take the average of the weights that `sam2-rcms train` kept.

    Raises:
        WeightsError: the source cannot be read, is of no size of SAM 2.1, or holds no average.
        UsageError: a suffix that no format has.
        OutputError: the target cannot be written.
    """
    from vos_core.weights.cache import sha256_of
    from vos_core.weights.convert import TORCH_SUFFIXES, save_state
    from vos_core.weights.load import find_state, read_checkpoint
    from vos_core.weights.manifest import shared_prefix

    content = read_checkpoint(source)
    state = find_state(content, source=str(source))
    prefix = shared_prefix(state)
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    if ema:
        state |= _average(content, source)
    size = size_of_state(state, source=str(source))
    if target.suffix in TORCH_SUFFIXES:
        save_state(target, state, wrapper="model")
    else:
        origin = {"source": source.name, "source_sha256": sha256_of(source), "size": size}
        save_state(target, state, metadata=origin)
    return Exported(size, len(state), sum(value.numel() for value in state.values()))


def size_of_state(state: dict[str, Tensor], *, source: str) -> Size:
    """Return the size whose keys and shapes a state dict has.

    Raises:
        WeightsError: none; the message lists how it differs from the closest size.
    """
    from vos_core.weights.manifest import manifest_diff, manifest_of

    found = manifest_of(state)
    sizes: tuple[Size, ...] = tuple(TRUNKS)  # type: ignore[arg-type]
    differences = {size: manifest_diff(found, manifest(size), floats_alike=True) for size in sizes}
    for size, difference in differences.items():
        if not difference:
            return size
    closest = min(sizes, key=lambda size: len(found.keys() ^ manifest(size).keys()))
    raise WeightsError(
        f"{source} is no checkpoint of SAM 2.1; it differs from {closest}:\n{differences[closest]}",
        fix="Check that the file belongs to this method",
    )


def _average(content: Any, source: Path) -> dict[str, Tensor]:
    kept = content.get("ema") if isinstance(content, dict) else None
    if not isinstance(kept, dict) or not isinstance(kept.get("average"), dict):
        raise WeightsError(
            f"{source} holds no average of the weights", fix="Train with --set ema_decay=0.9999, or leave out --ema"
        )
    average: dict[str, Tensor] = kept["average"]
    return average
