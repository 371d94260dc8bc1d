"""Key manifests: the names, shapes and dtypes that a checkpoint must have, and the readable difference to what it has."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vos_core.errors import WeightsError

if TYPE_CHECKING:
    import torch

TensorSpec = tuple[tuple[int, ...], str]
"""Shape and dtype name, for example `((64, 3, 7, 7), "float32")`."""
Manifest = Mapping[str, TensorSpec]
"""Key -> shape and dtype, in the order of the network's state dict."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and wrapper modules put before every key."""
_SHOWN = 8  # keys listed per kind of difference before "and N more"


def read_manifest(path: Path) -> dict[str, TensorSpec]:
    """Return the manifest in a JSON file of the form `{"key": [[64, 3, 7, 7], "float32"], ...}`.

    Raises:
        WeightsError: the file is absent or of another form.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): (tuple(int(size) for size in shape), str(dtype)) for key, (shape, dtype) in data.items()}
    except OSError as error:
        raise WeightsError(f"key manifest {path} cannot be read ({error.strerror})", fix="Reinstall the package") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"key manifest {path} is damaged ({error})", expected='{"key": [[shape], "dtype"], ...}') from error


def manifest_of(state: Mapping[str, torch.Tensor]) -> dict[str, TensorSpec]:
    """Return key -> (shape, dtype name) of tensors."""
    return {key: (tuple(value.shape), str(value.dtype).removeprefix("torch.")) for key, value in state.items()}


def shared_prefix(keys: Iterable[str]) -> str:
    """Return the known wrapper prefixes that all `keys` begin with; "" if none.

    >>> shared_prefix(["module._orig_mod.a", "module._orig_mod.b"])
    'module._orig_mod.'
    """
    names = list(keys)
    prefix = ""
    while names:
        step = next((part for part in PREFIXES if all(name.startswith(prefix + part) for name in names)), None)
        if step is None:
            break
        prefix += step
    return prefix


@dataclass(frozen=True, slots=True)
class ManifestDiff:
    """How a checkpoint differs from what is expected. Falsy when it does not.

    Args:
        missing: expected keys that are absent.
        unexpected: keys that nothing expects.
        changed: key -> (expected, found) shape and dtype.
        similar: missing key -> the unexpected key most like it, for the missing keys that are shown.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    changed: Mapping[str, tuple[TensorSpec, TensorSpec]] | None = None
    similar: Mapping[str, str] | None = None

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.changed)

    def __str__(self) -> str:
        changed, similar = self.changed or {}, self.similar or {}
        missing = [f"{key}  (found instead: {similar[key]}?)" if key in similar else key for key in self.missing]
        lines = [*_listed("missing", missing), *_listed("unexpected", self.unexpected)]
        shapes = [f"{key}: expected {_show(want)}, found {_show(have)}" for key, (want, have) in changed.items()]
        return "\n".join([*lines, *_listed("of another shape or dtype", shapes)])


def manifest_diff(found: Manifest, expected: Manifest, *, floats_alike: bool = False) -> ManifestDiff:
    """Return how `found` differs from `expected`, wrapper prefixes that all keys of one side share left out.

    Args:
        found: what a checkpoint has (see `manifest_of`).
        expected: what it should have.
        floats_alike: take any floating dtype for any other, as loading into a network does.
    """
    found, expected = _bare(found), _bare(expected)
    missing = tuple(key for key in expected if key not in found)
    unexpected = tuple(key for key in found if key not in expected)
    changed = {
        key: (want, found[key])
        for key, want in expected.items()
        if key in found and not _same(found[key], want, floats_alike=floats_alike)
    }
    similar = {}
    for key in missing[:_SHOWN]:
        # Same shape first: a renamed layer keeps its shape, and names alone mislead in repetitive networks.
        same_shape = [other for other in unexpected if found[other][0] == expected[key][0]]
        if close := difflib.get_close_matches(key, same_shape[:500], n=1, cutoff=0.5):
            similar[key] = close[0]
    return ManifestDiff(missing, unexpected, changed, similar)


def check_manifest(state: Mapping[str, torch.Tensor], manifest: Manifest, *, source: str) -> None:
    """Return if keys, shapes and dtypes of `state` equal the manifest's.

    Raises:
        WeightsError: they do not; the message lists the differences.
    """
    difference = manifest_diff(manifest_of(state), manifest)
    if difference:
        raise WeightsError(f"{source} does not fit its key manifest", fix=f"Differences:\n{difference}")


def _bare(manifest: Manifest) -> Manifest:
    prefix = shared_prefix(manifest)
    return {key.removeprefix(prefix): spec for key, spec in manifest.items()} if prefix else manifest


def _same(found: TensorSpec, expected: TensorSpec, *, floats_alike: bool) -> bool:
    if found[0] != expected[0]:
        return False
    return found[1] == expected[1] or (floats_alike and "float" in found[1] and "float" in expected[1])


def _show(spec: TensorSpec) -> str:
    return f"{spec[1]} ({', '.join(map(str, spec[0]))})"


def _listed(title: str, rows: Iterable[str]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    more = [f"    ... and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
    return [f"  {len(rows)} {title}:", *(f"    {row}" for row in rows[:_SHOWN]), *more]
