"""What an original training file (hydra YAML) says, as fields of `TrainConfig`; groups are found by their class names."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from sam2_rcms.hydra import groups, size_of
from sam2_rcms.train.config import LossConfig, PromptConfig, SamplerConfig
from vos_core.errors import ConfigError

_SAMPLERS = {"RandomUniformSampler": "uniform", "RandomGapSampler": "gap"}


def training_values(values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Return `TrainConfig` fields that a resolved original file sets; what it does not mention keeps its default.

    Taken are model, sampler, data folders, transforms, losses, optimiser, schedule, precision, seed and start weights. Folders
    for logs, launchers and classes of the original's trainer have no counterpart and are left out; a launcher for several
    GPUs or for SLURM with a warning, since a run of one rank takes smaller steps.

    Args:
        values: from `sam2_rcms.hydra.read_original`.
        source: the file, for errors.

    Raises:
        ConfigError: it is no training file, or uses a sampler or transform that is not known.
    """
    model = next(groups(values, "SAM2Train"), None)
    if model is None:
        raise ConfigError(f"{source} has no group of class SAM2Train", expected="a training file of the original")
    _warn_of_launcher(values, source)
    scratch = values.get("scratch") or {}
    trainer = values.get("trainer") or {}
    found: dict[str, Any] = {
        "variant": size_of(model, source=source),
        **_some(model, "image_size", "sigmoid_scale_for_mem_enc", "sigmoid_bias_for_mem_enc", "freeze_image_encoder"),
        **_some(model["image_encoder"]["trunk"], "drop_path_rate"),
        "prompts": _some(model, *PromptConfig.model_fields),
        "sampler": _sampler(values, source),
        "data": _data(values),
        "transforms": _transforms(values, source),
        "loss": _loss(values),
        "optimizer": _optimizer(scratch, trainer.get("optim") or {}),
    }
    found.setdefault("drop_path_rate", 0.0)
    dropout = ((model.get("memory_attention") or {}).get("layer") or {}).get("dropout")
    plain = {
        "dropout": dropout,
        "epochs": trainer.get("max_epochs", scratch.get("num_epochs")),
        "batch_size": scratch.get("train_batch_size"),
        "workers": scratch.get("num_train_workers"),
        "seed": trainer.get("seed_value"),
        "accumulate": trainer.get("gradient_accumulation_steps"),
        "weights": _initial_weights(trainer),
        "precision": _precision((trainer.get("optim") or {}).get("amp") or {}),
    }
    return {**found, **{key: value for key, value in plain.items() if value is not None}}


def _warn_of_launcher(values: Mapping[str, Any], source: str) -> None:
    launcher, cluster = values.get("launcher") or {}, values.get("submitit") or {}
    nodes, gpus = launcher.get("num_nodes", 1), launcher.get("gpus_per_node", 1)
    asked = [f"{nodes} x {gpus} GPUs (launcher)"] if (nodes, gpus) != (1, 1) else []
    asked += ["SLURM jobs (submitit)"] if cluster.get("use_cluster") else []
    if asked:
        warnings.warn(
            f"{source} asks for {' and '.join(asked)}, which is not taken from the file: pass --num-gpus, or start with torchrun",
            stacklevel=2,
        )


def _some(group: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: group[name] for name in names if name in group}


def _sampler(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    group = next((one for one in groups(values) if _class(one).endswith("Sampler") and "num_frames" in one), None)
    if group is None:
        return {}
    if _class(group) not in _SAMPLERS:
        raise ConfigError(f"{source} uses the sampler {_class(group)}", expected=f"one of: {', '.join(_SAMPLERS)}")
    return {"kind": _SAMPLERS[_class(group)], **_some(group, *SamplerConfig.model_fields)}


def _data(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    sets = []
    for group in groups(values, "VOSDataset"):
        folders = group.get("video_dataset") or {}
        sets.append({**_some(folders, "img_folder", "gt_folder", "file_list_txt"), **_some(group, "multiplier")})
    return [{key: value for key, value in one.items() if value is not None} for one in sets] or [{}]


def _transforms(values: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    composed = next(groups(values, "ComposeAPI"), None)
    steps = []
    for step in (composed or {}).get("transforms") or ():
        kind, fields = _transform(step, source)
        if kind is not None:
            steps.append({"kind": kind, **fields})
    if not steps:
        raise ConfigError(f"{source} lists no transforms", expected="a ComposeAPI group")
    return steps


def _transform(step: Mapping[str, Any], source: str) -> tuple[str | None, dict[str, Any]]:
    name = _class(step)
    consistent = {"consistent": step["consistent_transform"]} if "consistent_transform" in step else {}
    if name == "RandomHorizontalFlip":
        return "flip", {**consistent, **_some(step, "p")}
    if name == "RandomAffine":
        attempts = {"attempts": step["num_tentatives"]} if "num_tentatives" in step else {}
        return "affine", {**consistent, **attempts, **_some(step, "degrees", "shear")}
    if name == "RandomCropAPI":
        sizes = {"sizes": [one if isinstance(one, list) else [one, one] for one in step["sizes"]]} if "sizes" in step else {}
        return "crop", {**sizes, **({"p": step[key]} if (key := "p" if "p" in step else "prob") in step else {})}
    if name == "RandomResizeAPI":
        sizes = step.get("sizes", 1024)
        return "resize", {"sizes": sizes if isinstance(sizes, list) else [sizes], **_some(step, "square")}
    if name == "ColorJitter":
        given = {key: step.get(key) or 0.0 for key in ("brightness", "contrast", "saturation", "hue")}
        return "colour", {**consistent, **given}
    if name == "RandomGrayscale":
        return "grey", {**consistent, **_some(step, "p")}
    if name == "NormalizeAPI":
        return "normalise", _some(step, "mean", "std")
    if name == "ToTensorAPI":
        return None, {}
    raise ConfigError(f"{source} uses the transform {name}, which is not known")


def _loss(values: Mapping[str, Any]) -> dict[str, Any]:
    group = next((one for one in groups(values) if "weight_dict" in one), {})
    return {**_some(group.get("weight_dict") or {}, *LossConfig.model_fields), **_some(group, *LossConfig.model_fields)}


def _optimizer(scratch: Mapping[str, Any], optim: Mapping[str, Any]) -> dict[str, Any]:
    options = optim.get("options") or {}
    found = _some(scratch, "base_lr", "vision_lr")
    for entry in options.get("lr") or ():
        schedule = entry.get("scheduler") or {}
        first, last = schedule.get("start_value", schedule.get("value")), schedule.get("end_value")
        if first is not None:
            found["vision_lr" if "image_encoder" in str(entry.get("param_names")) else "base_lr"] = first
        if first and last is not None:
            found["end_factor"] = last / first
    decays = [(entry.get("scheduler") or {}).get("value") for entry in options.get("weight_decay") or ()]
    if any(decays):
        found["weight_decay"] = max(value for value in decays if value)
    found |= _some(optim.get("optimizer") or {}, "betas", "eps")
    clip = (optim.get("gradient_clip") or {}).get("max_norm")
    if clip is not None:
        found["clip_norm"] = clip
    decay = next((one["layer_decay_value"] for one in groups(optim) if "layer_decay_value" in one), None)
    return found if decay is None else {**found, "layer_decay": decay}


def _precision(amp: Mapping[str, Any]) -> str | None:
    if not amp:
        return None
    return {"bfloat16": "bf16", "float16": "fp16"}.get(str(amp.get("amp_dtype")), "fp32") if amp.get("enabled", True) else "fp32"


def _initial_weights(trainer: Mapping[str, Any]) -> str | None:
    start = trainer.get("checkpoint") or {}
    return next((str(one["checkpoint_path"]) for one in groups(start) if one.get("checkpoint_path")), None)


def _class(group: Mapping[str, Any]) -> str:
    return str(group.get("_target_", "")).rsplit(".", 1)[-1]
