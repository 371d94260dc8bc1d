"""STCN: space-time correspondence networks as a streaming segmenter, with test-time training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stcn_ttt.__about__ import __version__
from stcn_ttt.adapt.config import CONFIG_NAMES, TttConfig, load_config
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.weights import METHOD_NAME, NAMES, register
from vos_core.contract import BuildRequest, MethodInfo, Precision

if TYPE_CHECKING:
    from stcn_ttt.segmenter import STCNSegmenter

__all__ = ["METHOD", "SegmenterConfig", "TttConfig", "__version__", "build"]

PLAIN, CUSTOM = "stcn", "ttt"
"""Variants without test-time training, and with a configuration that options alone describe."""


def build(request: BuildRequest) -> STCNSegmenter:
    """Return a segmenter as the runtime asks for it; variants other than `stcn` adapt to each clip first.

    Options are those of `SegmenterConfig` and, for variants that adapt, of `TttConfig`.

    Raises:
        ConfigError: an option that STCN has not.
        WeightsError: weights that cannot be read or do not fit.
    """
    from stcn_ttt.adapt.segmenter import AdaptiveSTCNSegmenter
    from stcn_ttt.segmenter import STCNSegmenter
    from stcn_ttt.weights import load_network

    network = load_network(request.weights, seed=request.seed)
    config, ttt = _configs(request)
    if ttt is None:
        return STCNSegmenter(
            network,
            config,
            device=request.device,
            precision=request.precision,
            probabilities=request.probabilities,
        )
    half: Precision = "bf16" if request.device == "cpu" else "fp16"
    return AdaptiveSTCNSegmenter(
        network,
        config,
        ttt=ttt,
        seed=request.seed,
        device=request.device,
        precision=half if ttt.amp and request.precision == "fp32" else request.precision,
        probabilities=request.probabilities,
    )


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option of such a run: of the segmenter, and of the adaptation where there is one."""
    config, ttt = _configs(request)
    return {**(ttt.model_dump(mode="json") if ttt is not None else {}), **config.model_dump(mode="json")}


def _configs(request: BuildRequest) -> tuple[SegmenterConfig, TttConfig | None]:
    """Return the two configurations of a request; options that both have go through the one of the adaptation."""
    from vos_core.config import build_config

    if request.variant in (None, PLAIN):
        return build_config(SegmenterConfig, request.options), None
    own = {name: value for name, value in request.options.items() if name in TttConfig.model_fields}
    ttt = load_config(None if request.variant == CUSTOM else request.variant, options=own)
    shared = {name: getattr(ttt, name) for name in SegmenterConfig.model_fields if name in TttConfig.model_fields}
    rest = {name: value for name, value in request.options.items() if name not in own}
    return build_config(SegmenterConfig, shared, rest), ttt


def _weights_of(variant: str) -> tuple[str, ...]:
    """Return the released weights, the variant's own first."""
    if variant in (PLAIN, CUSTOM):
        return NAMES
    own = variant.rsplit("_", 1)[0]
    return (own, *(name for name in NAMES if name != own))


_VARIANTS = (PLAIN, *CONFIG_NAMES, CUSTOM)
METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="Space-time correspondence networks (STCN): matches image keys, reads mask values of the 20 best memory nodes.",
    build=build,
    settings=settings,
    variants=_VARIANTS,
    weights={variant: _weights_of(variant) for variant in _VARIANTS},
    adaptive=True,
    options={name: field.description or "" for name, field in {**TttConfig.model_fields, **SegmenterConfig.model_fields}.items()},
    register=register,
)
