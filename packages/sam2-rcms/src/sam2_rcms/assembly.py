"""Predictors by the name of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sam2_rcms.config import POSTPROCESSING, PRESETS, PredictorConfig
from sam2_rcms.predictor import VideoPredictor
from sam2_rcms.weights import METHOD_NAME, load_network
from vos_core.config import build_config
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.run.device import choose_device
from vos_core.weights.registry import resolve


def build_predictor(
    preset: str = "b+_rcms",
    *,
    weights: Path | str | None = None,
    device: str = "cpu",
    precision: Precision = "fp32",
    apply_postprocessing: bool = True,
    batch_objects: bool = True,
    seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> VideoPredictor:
    """Return a predictor of a preset, with SAM 2's post-processing of interactive use.

    Args:
        preset: one of `sam2_rcms.config.PRESETS`.
        weights: a checkpoint file, or the name of a released one, which is downloaded once; None = untrained weights of `seed`.
        device: cpu, cuda, cuda:<index>, or auto.
        precision: fp32 is the parity path.
        apply_postprocessing: stable single masks, binary prompt masks, holes of up to 8 low-resolution pixels filled.
        batch_objects: compute objects together.
        seed: for untrained weights.
        options: fields of `PredictorConfig`.

    Raises:
        UsageError: no such preset, option or device.
        WeightsError: weights that cannot be read or do not fit.
    """
    if preset not in PRESETS:
        raise UsageError(f"there is no preset '{preset}'", expected=f"one of: {', '.join(PRESETS)}")
    found = PRESETS[preset]
    layers: list[Mapping[str, object]] = [found.options, POSTPROCESSING if apply_postprocessing else {}, options or {}]
    config = build_config(PredictorConfig, *layers)
    device = choose_device(device)
    path = None if weights is None else resolve(str(weights), method=METHOD_NAME).path
    network = load_network(path, found.size, seed=seed)
    return VideoPredictor(network, config, device=device, precision=precision, batch_objects=batch_objects)
