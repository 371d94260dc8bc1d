"""The published stages by name, and configurations from a preset, a YAML file and assignments on top (spec 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sam2_rcms.hydra import is_original, read_original
from sam2_rcms.train.config import ResizeStep, SamplerConfig, TrainConfig, published_transforms
from sam2_rcms.train.original import training_values
from vos_core.config import build_config, merge, parse_assignments, read_yaml
from vos_core.errors import ConfigError, UsageError

_SECOND: Mapping[str, Any] = {"sigmoid_scale_for_mem_enc": 7.5, "sigmoid_bias_for_mem_enc": -4.0, "weights": ""}
"""Stage 2: mask scaling (MSS), and a start from stage 1 that has to be named."""


def _base_plus(frames: int, **values: Any) -> TrainConfig:
    return TrainConfig(
        variant="base_plus",
        sampler=SamplerConfig(kind="gap", num_frames=frames),
        transforms=published_transforms(crop=True),
        **values,
    )


def _large(frames: int, **values: Any) -> TrainConfig:
    return TrainConfig(variant="large", sampler=SamplerConfig(num_frames=frames), drop_path_rate=0.0, **values)


PRESETS: Mapping[str, TrainConfig] = {
    "b+_stage1": _base_plus(8),
    "b+_stage2": _base_plus(16, freeze_image_encoder=True, **_SECOND),
    "b+_stage2_file": _base_plus(8, **_SECOND),
    "l_stage1": _large(8),
    "l_stage2": _large(16, freeze_image_encoder=True, **_SECOND),
}
"""`b+_stage2` follows the published description (16 frames, frozen encoder); `b+_stage2_file` the values of its file."""


def load_config(source: str, assignments: Iterable[str] = (), *, data: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return a training configuration.

    Args:
        source: a preset's name, a YAML file of this package (which may name its `preset`), or an original hydra file.
        assignments: `key=value` on top; `image_size` alone also moves the last resize.
        data: fields of the one training set, on top of everything.

    Raises:
        UsageError: no such preset or file.
        ConfigError: an unknown key, or a value that its field refuses.
    """
    layers: list[Mapping[str, Any]] = []
    base = TrainConfig()
    if source in PRESETS:
        base = PRESETS[source]
    elif Path(source).is_file():
        values = read_yaml(Path(source))
        if is_original(values):
            layers.append(training_values(read_original(Path(source)), source=source))
        else:
            name = values.pop("preset", None)
            if name is not None and name not in PRESETS:
                raise ConfigError(f"{source} names the preset '{name}'", expected=f"one of: {', '.join(PRESETS)}")
            base = base if name is None else PRESETS[name]
            layers.append(values)
    else:
        raise UsageError(
            f"there is no training configuration '{source}'", expected=f"a YAML file or one of: {', '.join(PRESETS)}"
        )
    layers.append(parse_assignments(assignments))
    layers.append({"data": dict(data)} if data else {})
    merged: Mapping[str, Any] = base.model_dump()
    for layer in layers:
        merged = merge(merged, _with_resize(_with_sets(layer, merged), merged))
    return build_config(TrainConfig, merged)


def _with_sets(layer: Mapping[str, Any], under: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `layer` with fields of `data` that are not in a list put into the first training set."""
    own = layer.get("data")
    if not isinstance(own, Mapping):
        return layer
    first, *others = under["data"] or ({},)
    return {**layer, "data": [{**first, **own}, *others]}


def _with_resize(layer: Mapping[str, Any], under: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `layer` with the resize step led to its image size, unless it lists its own transforms."""
    if "image_size" not in layer or "transforms" in layer:
        return layer
    step = {**ResizeStep().model_dump(), "sizes": [layer["image_size"]]}
    return {**layer, "transforms": [step if one["kind"] == "resize" else one for one in under["transforms"]]}
