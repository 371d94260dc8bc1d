"""Clips, masks, scores, kernels and the streaming runtime that video object segmentation methods share."""

from vos_core.__about__ import __version__
from vos_core.contract import BuildRequest, MethodInfo, Segmenter, discover, get_method
from vos_core.errors import VosError
from vos_core.types import Clip, ClipRecord, Frame, FrameResult, Prompt, RunRecord

__all__ = [
    "BuildRequest",
    "Clip",
    "ClipRecord",
    "Frame",
    "FrameResult",
    "MethodInfo",
    "Prompt",
    "RunRecord",
    "Segmenter",
    "VosError",
    "__version__",
    "discover",
    "get_method",
]
