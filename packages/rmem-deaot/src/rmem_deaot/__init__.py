"""AOT and DeAOT with restricted memory banks (RMem) as a streaming segmenter, with training and the published recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rmem_deaot.__about__ import __version__
from rmem_deaot.config import VARIANTS, SegmenterConfig
from rmem_deaot.weights import AUTO, METHOD_NAME, names_for, register
from vos_core.contract import BuildRequest, MethodInfo

if TYPE_CHECKING:
    from rmem_deaot.segmenter import RMemSegmenter

__all__ = ["METHOD", "VARIANTS", "SegmenterConfig", "__version__", "build"]


def build(request: BuildRequest) -> RMemSegmenter:
    """Return a segmenter as the runtime asks for it; options are those of `SegmenterConfig`.

    Raises:
        ConfigError: an option that there is not.
        WeightsError: weights that cannot be read or do not fit the variant.
    """
    from rmem_deaot.segmenter import RMemSegmenter
    from rmem_deaot.weights import load_network
    from vos_core.config import build_config

    config = build_config(SegmenterConfig, request.options)
    network, variant = load_network(request.weights, variant=request.variant or AUTO, seed=request.seed)
    return RMemSegmenter(
        network,
        VARIANTS[variant],
        config,
        device=request.device,
        precision=request.precision,
        probabilities=request.probabilities,
    )


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option of such a run; None stands for what the variant says."""
    from vos_core.config import build_config

    return build_config(SegmenterConfig, request.options).model_dump(mode="json")


METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="AOT and DeAOT with a restricted memory bank (RMem): all objects in one embedding, a memory of 8 whole frames.",
    build=build,
    settings=settings,
    variants=(AUTO, *VARIANTS),
    weights={variant: names_for(variant) for variant in (AUTO, *VARIANTS)},
    options={name: field.description or "" for name, field in SegmenterConfig.model_fields.items()},
    register=register,
)
