"""Reduced training runs that several tests share; importable, so that other processes can start them."""

from __future__ import annotations

import multiprocessing
import os
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
from vos_core.training.distributed import Ranks, ranks_from_environment

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


def long_config(root: Path) -> TrainConfig:
    """Four steps with an average and a checkpoint half way."""
    return toy_config(root, steps=4, save_every=2, keep=2, ema_decay=0.9)


def still_config(root: Path, batch: int) -> TrainConfig:
    """One step that draws nothing from a rank's own generator."""
    prompts = PromptConfig(prob_to_use_pt_input_for_train=0)
    return toy_config(root, steps=1, batch_size=batch, prompts=prompts, dropout=0.0, drop_path_rate=0.0)


def run_rank(root: Path, output: Path, rank: int, world: int) -> None:
    """Take the part of one rank in a still run of one clip a rank."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    with ranks_from_environment("cpu") as ranks:
        train(still_config(root, 1), toy_options(output), ranks)


def main(root: str, output: str, world: str) -> None:
    """Do the long run in this process, or with `world` above 1 the still one in so many processes.

    They are forked: importing torch takes longer than the run.
    """
    torch.set_num_threads(1)
    if world == "1":
        train(long_config(Path(root)), toy_options(Path(output)), Ranks())
        return
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(Path(root), Path(output), rank, int(world))) for rank in range(int(world))]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in ranks))


if __name__ == "__main__":
    main(*sys.argv[1:])
