"""Checkpoints: a registry of names, downloads that resume and are verified, safe loading, strict matching, conversion."""

from vos_core.weights.cache import cache_folder
from vos_core.weights.manifest import (
    Manifest,
    ManifestDiff,
    TensorSpec,
    check_manifest,
    manifest_diff,
    manifest_of,
    read_manifest,
)
from vos_core.weights.registry import ResolvedWeights, WeightsEntry, entries, get, register, resolve

__all__ = [
    "Manifest",
    "ManifestDiff",
    "ResolvedWeights",
    "TensorSpec",
    "WeightsEntry",
    "cache_folder",
    "check_manifest",
    "entries",
    "get",
    "manifest_diff",
    "manifest_of",
    "read_manifest",
    "register",
    "resolve",
]
