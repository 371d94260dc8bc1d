"""Reduced training runs that several tests share; importable, so that other processes can start them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from sam2_cases import SMALL_TRUNK

from sam2_rcms.train.config import (
    DataConfig,
    NormaliseStep,
    OptimizerConfig,
    PromptConfig,
    ResizeStep,
    SamplerConfig,
    TrainConfig,
)
from sam2_rcms.train.run import TrainOptions, train
from vos_core.data.synthetic_write import ClipPlan, write_davis
from vos_core.training.distributed import ranks_from_environment

PLAN = ClipPlan(clips=4, frames=6, height=48, width=64, objects=2)


def write_toy_clips(root: Path) -> Path:
    """Write the clips that toy runs train on."""
    write_davis(root, PLAN)
    return root


def toy_config(root: Path, **changes: Any) -> TrainConfig:
    """A run of a few steps on 64-pixel frames."""
    values: dict[str, Any] = {
        "variant": "tiny",
        "image_size": 64,
        "weights": "random",
        "data": (DataConfig(root=root, layout="davis"),),
        "sampler": SamplerConfig(num_frames=3, max_num_objects=2),
        "transforms": (ResizeStep(sizes=(64,)), NormaliseStep()),
        "optimizer": OptimizerConfig(base_lr=1e-3, vision_lr=1e-3),
        "steps": 3,
        "workers": 0,
        "precision": "fp32",
        "log_every": 1,
    }
    return TrainConfig(**{**values, **changes})


def toy_options(output: Path, **changes: Any) -> TrainOptions:
    """A run of the reduced network."""
    return TrainOptions(output=output, trunk=SMALL_TRUNK, progress=False, **changes)


def main(root: str, output: str, steps: str, batch: str, randomness: str = "all") -> None:
    """Run in a process of its own, under torchrun or not; `none` leaves out what draws from a rank's own generator."""
    torch.set_num_threads(1)
    still = {"prompts": PromptConfig(prob_to_use_pt_input_for_train=0), "dropout": 0.0, "drop_path_rate": 0.0}
    changes = still if randomness == "none" else {}
    config = toy_config(Path(root), steps=int(steps), batch_size=int(batch), save_every=2, keep=2, **changes)
    with ranks_from_environment("cpu") as ranks:
        train(config, toy_options(Path(output)), ranks)


if __name__ == "__main__":
    main(*sys.argv[1:])
