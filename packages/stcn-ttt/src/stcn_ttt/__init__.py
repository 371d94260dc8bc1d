"""STCN: space-time correspondence networks as a streaming segmenter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stcn_ttt.__about__ import __version__
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.weights import METHOD_NAME, NAMES, register
from vos_core.contract import BuildRequest, MethodInfo

if TYPE_CHECKING:
    from stcn_ttt.segmenter import STCNSegmenter

__all__ = ["METHOD", "SegmenterConfig", "__version__", "build"]


def build(request: BuildRequest) -> STCNSegmenter:
    """Return a segmenter as the runtime asks for it.

    Raises:
        ConfigError: an option that STCN has not.
        WeightsError: weights that cannot be read or do not fit.
    """
    from stcn_ttt.segmenter import STCNSegmenter
    from stcn_ttt.weights import load_network
    from vos_core.config import build_config

    config = build_config(SegmenterConfig, request.options)
    return STCNSegmenter(
        load_network(request.weights, seed=request.seed),
        config,
        device=request.device,
        precision=request.precision,
        probabilities=request.probabilities,
    )


METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="Space-time correspondence networks (STCN): matches image keys, reads mask values of the 20 best memory nodes.",
    build=build,
    weights={"": NAMES},
    options={name: field.description or "" for name, field in SegmenterConfig.model_fields.items()},
    register=register,
)
