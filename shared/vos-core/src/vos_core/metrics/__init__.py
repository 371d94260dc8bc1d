"""Scores of the official evaluators, equal to the last bit, streamed and multi-process."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vos_core.metrics.adaptive import adaptive_boundary_measure
    from vos_core.metrics.boundary import boundary_measure
    from vos_core.metrics.clips import evaluate_clips
    from vos_core.metrics.evaluate import Evaluation, evaluate_videos, write_results
    from vos_core.metrics.region import region_similarity
    from vos_core.metrics.source import VideoJob
    from vos_core.metrics.summary import summarise
    from vos_core.metrics.tracks import label_confusion, mean_iou, mean_iou_of, pck

__all__ = [
    "Evaluation",
    "VideoJob",
    "adaptive_boundary_measure",
    "boundary_measure",
    "evaluate_clips",
    "evaluate_videos",
    "label_confusion",
    "mean_iou",
    "mean_iou_of",
    "pck",
    "region_similarity",
    "summarise",
    "write_results",
]
_MODULES = {
    "Evaluation": "evaluate",
    "VideoJob": "source",
    "adaptive_boundary_measure": "adaptive",
    "boundary_measure": "boundary",
    "evaluate_videos": "evaluate",
    "evaluate_clips": "clips",
    "label_confusion": "tracks",
    "mean_iou": "tracks",
    "mean_iou_of": "tracks",
    "pck": "tracks",
    "region_similarity": "region",
    "summarise": "summary",
    "write_results": "evaluate",
}


def __getattr__(name: str) -> Any:
    # Modules are imported on first use: a command that scores folders should not pay for the others.
    if name not in _MODULES:
        raise AttributeError(f"module 'vos_core.metrics' has no attribute '{name}'")
    return getattr(importlib.import_module(f"vos_core.metrics.{_MODULES[name]}"), name)
