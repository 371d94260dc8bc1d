"""RSP: encoders pre-trained by stochastic frame prediction, and label propagation with them as a streaming segmenter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rsp_pretrain.__about__ import __version__
from rsp_pretrain.config import ARCHITECTURES, Objective, PropagationConfig
from rsp_pretrain.weights import ANY_VIT, METHOD_NAME, RELEASED, register
from vos_core.config import build_config, option_help
from vos_core.contract import BuildRequest, MethodInfo

if TYPE_CHECKING:
    from rsp_pretrain.segmenter import RSPSegmenter

__all__ = ["METHOD", "Objective", "PropagationConfig", "__version__", "build"]


def build(request: BuildRequest) -> RSPSegmenter:
    """Return a segmenter as the runtime asks for it; options are those of `PropagationConfig`.

    Raises:
        ConfigError: an option that label propagation has not.
        WeightsError: weights that cannot be read or do not fit.
    """
    from rsp_pretrain.segmenter import RSPSegmenter
    from rsp_pretrain.weights import load_encoder

    config = build_config(PropagationConfig, request.options)
    encoder, _ = load_encoder(request.weights, variant=request.variant, seed=request.seed)
    return RSPSegmenter(encoder, config, device=request.device, precision=request.precision, probabilities=request.probabilities)


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option of such a run."""
    return build_config(PropagationConfig, request.options).model_dump(mode="json")


_VARIANTS = (*ARCHITECTURES, ANY_VIT)
METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="Label propagation along the features of an encoder pre-trained by stochastic frame prediction (RSP).",
    build=build,
    settings=settings,
    variants=_VARIANTS,
    weights={name: (name,) if name in RELEASED else tuple(RELEASED) if name == ANY_VIT else () for name in _VARIANTS},
    options=option_help(PropagationConfig),
    image_backend="opencv",
    register=register,
)
