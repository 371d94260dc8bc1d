"""SAM 2.1 with reliable conditioned memory selection (RCMS) as a streaming segmenter and as an interactive predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sam2_rcms.__about__ import __version__
from sam2_rcms.config import PRESETS, PredictorConfig, Preset, SegmenterConfig
from sam2_rcms.weights import METHOD_NAME, register
from vos_core.config import build_config, option_help
from vos_core.contract import BuildRequest, MethodInfo

if TYPE_CHECKING:
    from sam2_rcms.segmenter import SAM2Segmenter

__all__ = ["METHOD", "PredictorConfig", "SegmenterConfig", "__version__", "build"]


def build(request: BuildRequest) -> SAM2Segmenter:
    """Return a segmenter as the runtime asks for it; options are those of `SegmenterConfig`.

    Raises:
        ConfigError: an option that SAM 2 has not.
        WeightsError: weights that cannot be read or do not fit the variant.
    """
    from sam2_rcms.segmenter import SAM2Segmenter
    from sam2_rcms.weights import load_network

    preset = _preset(request)
    config = build_config(SegmenterConfig, preset.options, request.options)
    return SAM2Segmenter(
        load_network(request.weights, preset.size, seed=request.seed),
        config,
        device=request.device,
        precision=request.precision,
        probabilities=request.probabilities,
    )


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option of such a run, those of the preset included."""
    return build_config(SegmenterConfig, _preset(request).options, request.options).model_dump(mode="json")


def _preset(request: BuildRequest) -> Preset:
    return PRESETS[request.variant or next(iter(PRESETS))]


METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="SAM 2.1 whose memory keeps good frames for good once an object disappears (RCMS); masks, clicks and boxes.",
    build=build,
    settings=settings,
    variants=tuple(PRESETS),
    weights={name: preset.weights for name, preset in PRESETS.items()},
    prompts=frozenset({"mask", "points", "box"}),
    adaptive=True,
    options=option_help(SegmenterConfig),
    register=register,
)
