"""Checkpoints: a registry of names, downloads that resume and are verified, safe loading, strict matching, conversion."""

from vos_core.weights.cache import cache_folder, sha256_of
from vos_core.weights.convert import convert, save_state
from vos_core.weights.load import find_state, load_state, read_checkpoint, read_metadata
from vos_core.weights.manifest import (
    Manifest,
    ManifestDiff,
    TensorSpec,
    check_manifest,
    manifest_diff,
    manifest_of,
    read_manifest,
)
from vos_core.weights.registry import ResolvedWeights, WeightsEntry, entries, get, register, resolve, resolve_entry
from vos_core.weights.strict import fitting_entries, load_strict

__all__ = [
    "Manifest",
    "ManifestDiff",
    "ResolvedWeights",
    "TensorSpec",
    "WeightsEntry",
    "cache_folder",
    "check_manifest",
    "convert",
    "entries",
    "find_state",
    "fitting_entries",
    "get",
    "load_state",
    "load_strict",
    "manifest_diff",
    "manifest_of",
    "read_checkpoint",
    "read_manifest",
    "read_metadata",
    "register",
    "resolve",
    "resolve_entry",
    "save_state",
    "sha256_of",
]
