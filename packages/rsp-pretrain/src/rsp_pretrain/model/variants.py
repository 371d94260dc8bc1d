"""Networks by name: the four pre-training variants, and the evaluation backbones that take their encoders."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from rsp_pretrain.config import ARCHITECTURES, LONG_SUFFIX, Objective, variant_name
from rsp_pretrain.model.network import RSP
from rsp_pretrain.model.vit import Encoder, initialise
from vos_core.config import build_config
from vos_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class BackboneSize:
    """Sizes of an evaluation backbone; the patch size is chosen apart."""

    dim: int
    depth: int
    heads: int


BACKBONES = {
    "vit_tiny": BackboneSize(192, 12, 3),
    "vit_small": BackboneSize(384, 12, 6),
    "vit_base": BackboneSize(768, 12, 12),
    "vit_large": BackboneSize(1024, 24, 16),
}


def build_rsp(variant: str = "rsp_vit_small_patch16", *, image_size: int = 224, **options: Any) -> RSP:
    """Return a fresh pre-training network.

    >>> build_rsp("rsp_vit_small_patch16", stoch=8).objective.stoch
    8

    Args:
        variant: short or long name, see `rsp_pretrain.config.ARCHITECTURES`.
        image_size: side of the frames in pixels; the released variants have 224.
        options: fields of `Objective`.

    Raises:
        UsageError: an unknown variant, option or size.
    """
    name = variant_name(variant)
    if name not in ARCHITECTURES:
        close = difflib.get_close_matches(name, ARCHITECTURES, n=2, cutoff=0.4) or list(ARCHITECTURES)
        raise UsageError(f"unknown variant '{variant}'", expected=f"one of {', '.join(close)}")
    return RSP(replace(ARCHITECTURES[name], image_size=image_size), build_config(Objective, options))


def build_backbone(name: str = "vit_small", *, patch: int = 16, image_size: int = 224) -> Encoder:
    """Return a fresh evaluation backbone (`vit_tiny`, `vit_small`, `vit_base`, `vit_large`).

    Raises:
        UsageError: an unknown name.
    """
    if name not in BACKBONES:
        raise UsageError(f"unknown backbone '{name}'", expected=f"one of {', '.join(BACKBONES)}")
    size = BACKBONES[name]
    backbone = Encoder(patch=patch, dim=size.dim, depth=size.depth, heads=size.heads, image_size=image_size)
    initialise(backbone)
    return backbone


def _factory(variant: str) -> Callable[..., RSP]:
    def build(**options: Any) -> RSP:
        return build_rsp(variant, **options)

    build.__name__ = variant
    build.__doc__ = f"Return a fresh `{variant}`; options as for `build_rsp`."
    return build


FACTORIES = {name: _factory(name) for short in ARCHITECTURES for name in (short, short + LONG_SUFFIX)}
"""Variant name, short and long -> function that builds it."""
