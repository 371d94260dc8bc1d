"""Object pursuit: every object is a code, a hypernetwork turns codes into segmentation networks, the space of codes grows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from object_pursuit.__about__ import __version__
from object_pursuit.config import PRESETS, SegmenterConfig
from object_pursuit.weights import METHOD_NAME, PUBLIC, register
from vos_core.config import build_config, option_help
from vos_core.contract import BuildRequest, MethodInfo

if TYPE_CHECKING:
    from object_pursuit.segmenter import ObjectPursuitSegmenter

__all__ = ["METHOD", "SegmenterConfig", "__version__", "build"]


def build(request: BuildRequest) -> ObjectPursuitSegmenter:
    """Return the one-shot segmenter as the runtime asks for it. Options are those of `SegmenterConfig`.

    Raises:
        ConfigError: an option that the method has not.
        UsageError: an unknown variant, or a path that does not exist.
        WeightsError: weights that cannot be read or do not fit.
    """
    from object_pursuit.segmenter import build_segmenter

    return build_segmenter(request)


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option of such a run."""
    return build_config(SegmenterConfig, request.options).model_dump(mode="json")


METHOD = MethodInfo(
    name=METHOD_NAME,
    summary="Object pursuit: fits an object's code to its mask; a hypernetwork turns the code into a network that segments it.",
    build=build,
    settings=settings,
    variants=tuple(PRESETS),
    weights={"backbone": (PUBLIC,), "full": (), "tiny": ()},
    adaptive=True,
    options=option_help(SegmenterConfig),
    register=register,
)
