"""The stages, their published values, and what of them depends on the variant that is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rmem_deaot.config import VARIANTS, Variant, check_variant
from vos_core.errors import UsageError

Source = Literal["static", "youtubevos", "davis2017", "lvos", "vost", "visor"]
Augmentation = Literal["v1", "v2"]

REACH: Mapping[Source, int] = {"davis2017": 12, "youtubevos": 3, "vost": 3, "lvos": 30, "visor": 1}
"""Largest step in annotated frames between two frames of a training clip, by data set."""
REPEATS: Mapping[Source, int] = {"davis2017": 5}
"""How often an epoch uses each clip of a set; once where it is not named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Published values of one stage.

    Args:
        name: as in the original's configuration files.
        sources: data sets.
        steps: optimiser steps.
        frames: of a clip, the reference included.
        gap: frames between two frames of the long-term bank.
        start: stage whose averaged weights it starts from; None = an ImageNet encoder.
        lr: largest learning rate.
        min_lr: where the rate begins and ends.
        weight_decay: of matrices.
        batch: clips in a step over all ranks.
        merge: chance that the objects of a second clip are pasted over the first.
        aux_ratio: share of the steps over which the loss of the reference frame's own reading fades out.
        own_masks: remember the network's own masks in the second half of the steps, and freeze the identity bank there.
        ignore: VOST's form: 255 marks pixels to leave out, fed to the identity bank.
        save_every: steps between checkpoints.
    """

    name: str
    sources: tuple[Source, ...]
    steps: int = 100_000
    frames: int = 5
    gap: int = 2
    start: str | None = None
    lr: float = 2e-4
    min_lr: float = 1e-5
    weight_decay: float = 0.07
    batch: int = 16
    merge: float = 0.3
    aux_ratio: float = 1.0
    own_masks: bool = True
    ignore: bool = False
    save_every: int = 5000


def _vost(name: str, frames: int) -> Stage:
    return Stage(
        name=name, sources=("vost",), steps=20_000, frames=frames, gap=4, start="PRE_YTB_DAV", batch=8, merge=0.2, ignore=True,
        save_every=500,
    )  # fmt: skip


_STAGES = (
    Stage(name="PRE", sources=("static",), lr=4e-4, min_lr=2e-5, weight_decay=0.03, merge=1.0, aux_ratio=0.1, own_masks=False),
    Stage(name="PRE_YTB_DAV", sources=("youtubevos", "davis2017"), start="PRE"),
    Stage(name="PRE_YTB", sources=("youtubevos",), start="PRE"),
    Stage(name="YTB", sources=("youtubevos",)),
    Stage(name="PRE_DAV", sources=("davis2017",), steps=50_000, start="PRE"),
    Stage(name="PRE_LVOS", sources=("lvos",), steps=1000, frames=15, gap=4, start="PRE_YTB_DAV", save_every=1000),
    _vost("PRE_VOST", 15),
    _vost("PRE_VOST_2", 17),
    _vost("PRE_VOST_25Q", 25),
)
STAGES: Mapping[str, Stage] = {stage.name: stage for stage in _STAGES}


@dataclass(frozen=True, slots=True)
class Plan:
    """A stage for one variant.

    Args:
        stage: with the values that the variant changes.
        variant: name in `VARIANTS`.
        augmentation: what is done to clips: v2 adds colour and blur.
    """

    stage: Stage
    variant: str
    augmentation: Augmentation
    config: Variant = field(repr=False)


def plan_stage(stage: str, model: str, *, temporal_position: bool = False) -> Plan:
    """Return the values of a stage for a model.

    VOST's stages train the VOST form of a model; temporal positions make it the RMem form, for which `PRE_YTB_DAV` takes nine
    frames (as many as fill the four slots) and half the batch. T, S and B variants never append to the bank.

    Args:
        stage: name, in either case.
        model: variant name.
        temporal_position: train the form with temporal positions.

    Raises:
        UsageError: no such stage or model, or no such form of it.
    """
    key = stage.upper().replace("-", "_")
    if key not in STAGES:
        raise UsageError(f"there is no stage '{stage}'", expected=f"one of: {', '.join(STAGES)}")
    values = STAGES[key]
    name = _form(model, values, temporal_position=temporal_position)
    variant = VARIANTS[name]
    changes: dict[str, object] = {}
    if variant.network.encoder == "mobilenetv2":
        changes["min_lr"] = 2e-5
    if variant.gap > 1000:
        changes["gap"] = variant.gap
    if key == "PRE_YTB_DAV" and variant.network.temporal_position:
        changes |= {"frames": 9, "batch": 8}
    augmentation: Augmentation = "v1" if variant.network.family == "aot" or values.ignore else "v2"
    return Plan(replace(values, **changes), name, augmentation, variant)  # type: ignore[arg-type]


def _form(model: str, stage: Stage, *, temporal_position: bool) -> str:
    check_variant(model)
    base = model.removesuffix("_vost").removesuffix("_rmem")
    positions = temporal_position or VARIANTS[model].network.temporal_position
    wanted = base + ("_rmem" if positions else "") + ("_vost" if stage.ignore else "")
    if model.endswith("_vost") and not stage.ignore:
        raise UsageError(f"{model} is a form for VOST", fix=f"Train it with a stage of VOST, or {base} with stage {stage.name}")
    if wanted not in VARIANTS:
        raise UsageError(
            f"{model} has no form{' with temporal positions' if positions else ''}{' for VOST' if stage.ignore else ''}",
            expected=f"one of: {', '.join(name for name in VARIANTS if name + wanted.removeprefix(base) in VARIANTS)}",
        )
    return wanted
