"""Weights into networks: every key fits or nothing is loaded, and the message says what does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vos_core.errors import WeightsError
from vos_core.weights.manifest import Manifest, manifest_diff, manifest_of, shared_prefix
from vos_core.weights.registry import entries

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_strict(
    module: nn.Module, state: Mapping[str, torch.Tensor], *, source: str, variants: Mapping[str, Manifest] | None = None
) -> None:
    """Copy `state` into `module` if keys and shapes agree exactly; a wrapper prefix on either side is no difference.

    A module built under `torch.device("meta")` takes the tensors of `state` themselves, so that weights exist once: those of a
    memory-mapped checkpoint stay in its file until they are used.

    Args:
        module: takes the values in its own floating dtypes.
        state: key -> tensor, as `load_state` returns it.
        source: the file or name, for errors.
        variants: variant name -> its manifest, to say which variant the checkpoint fits.

    Raises:
        WeightsError: missing, unexpected or differently shaped keys, or values that are not finite; the module is unchanged.
    """
    found, expected = manifest_of(state), manifest_of(module.state_dict())
    difference = manifest_diff(found, expected, floats_alike=True)
    if difference:
        fitting = [name for name, manifest in (variants or {}).items() if not manifest_diff(found, manifest)]
        hint = f"These weights fit variant {' or '.join(fitting)}: choose it" if fitting else _registry_hint(found)
        raise WeightsError(f"{source} does not fit this {type(module).__name__}", fix=f"{hint}. Differences:\n{difference}")
    _check_finite(state, source)
    old, new = shared_prefix(found), shared_prefix(expected)
    values = {new + key.removeprefix(old): value for key, value in state.items()}
    if assign := any(parameter.is_meta for parameter in module.parameters()):
        own = module.state_dict()
        values = {key: value.to(own[key].dtype).contiguous() for key, value in values.items()}
    module.load_state_dict(values, strict=True, assign=assign)


def fitting_entries(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of registry entries whose manifest `state` equals."""
    return _fitting(manifest_of(state))


def _check_finite(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse tensors with NaN or infinity, of which every result would be made; one pass over memory that a run reads anyway."""
    import torch

    def broken(value: torch.Tensor) -> bool:
        # A sum is not finite if a term is not; the reverse is rare, and only then each term is looked at.
        return not torch.isfinite(value.sum(dtype=torch.float32)) and not torch.isfinite(value).all()

    keys = [key for key, value in state.items() if value.is_floating_point() and not value.is_meta and broken(value)]
    if keys:
        more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
        raise WeightsError(
            f"{source} holds numbers that are not finite (NaN or infinity) in {keys[0]}{more}",
            expected="finite weights",
            fix="Download it again, or take a checkpoint from before the training broke",
        )


def _fitting(found: Manifest) -> list[str]:
    fitting = []
    for entry in entries():
        manifest = entry.read_manifest()
        if manifest and not manifest_diff(found, manifest):
            fitting.append(f"{entry.method}/{entry.name}")
    return fitting


def _registry_hint(found: Manifest) -> str:
    fitting = _fitting(found)
    if fitting:
        return f"They are laid out like the registered {', '.join(fitting)}: choose that method and variant"
    return "Check that the file belongs to this method and variant"
