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
        WeightsError: missing, unexpected or differently shaped keys; the module is unchanged.
    """
    found, expected = manifest_of(state), manifest_of(module.state_dict())
    difference = manifest_diff(found, expected, floats_alike=True)
    if difference:
        fitting = [name for name, manifest in (variants or {}).items() if not manifest_diff(found, manifest)]
        hint = f"These weights fit variant {' or '.join(fitting)}: choose it" if fitting else _registry_hint(found)
        raise WeightsError(f"{source} does not fit this {type(module).__name__}", fix=f"{hint}. Differences:\n{difference}")
    old, new = shared_prefix(found), shared_prefix(expected)
    values = {new + key.removeprefix(old): value for key, value in state.items()}
    if assign := any(parameter.is_meta for parameter in module.parameters()):
        own = module.state_dict()
        values = {key: value.to(own[key].dtype).contiguous() for key, value in values.items()}
    module.load_state_dict(values, strict=True, assign=assign)


def fitting_entries(state: Mapping[str, torch.Tensor]) -> list[str]:
    """Return the names of registry entries whose manifest `state` equals."""
    return _fitting(manifest_of(state))


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
