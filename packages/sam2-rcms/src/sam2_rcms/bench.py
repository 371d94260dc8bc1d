"""Seconds per frame, seconds per stage and memory of the segmenter on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sam2_rcms.segmenter import SAM2Segmenter
from vos_core.errors import UsageError
from vos_core.io.frames import open_frames
from vos_core.run.memory import MemoryMeter
from vos_core.types import Frame, Prompt, RgbImage

STAGES = ("image_encoder", "memory_attention", "sam_mask_decoder", "memory_encoder")
"""Modules of the network that are timed apart; the rest of a frame is resizing, reading and writing of memories."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What tracking one number of objects costs; medians over the frames after the first.

    Args:
        objects: followed at once.
        frames: timed.
        seconds_per_frame: wall clock of one step.
        stages: seconds per frame of the modules in `STAGES`.
        peak_memory_bytes: of the device, or of the process on a CPU.
        state_bytes: held for the clip at its end.
    """

    objects: int
    frames: int
    seconds_per_frame: float
    stages: dict[str, float]
    peak_memory_bytes: int
    state_bytes: int


def bench_frames(video: Path | None, count: int, *, size: tuple[int, int] = (480, 854)) -> list[RgbImage]:
    """Return the first frames of a video or folder, from its start again where it is shorter; without one, a moving texture.

    Raises:
        FrameError: the video cannot be read.
    """
    if video is not None:
        source = open_frames(video)
        first = [source.read(index).rgb for index in range(min(count, len(source.names)))]
        return list(islice(cycle(first), count))
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (-(-size[0] // 8), size[1] // 8 + 2 + count, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.ascontiguousarray(scene[: size[0], 2 * t : 2 * t + size[1]]) for t in range(count)]


def measure(segmenter: SAM2Segmenter, frames: Sequence[RgbImage], *, objects: int) -> Speed:
    """Return what following `objects` discs through `frames` costs.

    Raises:
        UsageError: fewer than three frames: the first is prompted, the second warms up.
    """
    if len(frames) < 3:
        raise UsageError(f"{len(frames)} frames to measure", expected="at least 3", fix="Raise --frames")
    segmenter.reset()
    device = str(segmenter.predictor.engine.device)
    meter, cuda = MemoryMeter(device), device.startswith("cuda")
    network = segmenter.predictor.engine.network
    seconds: list[float] = []
    stages: dict[str, list[float]] = {name: [] for name in STAGES}
    for t, rgb in enumerate(frames):
        prompts = _discs(rgb, objects) if t == 0 else []
        with _clocks(network, cuda) as spent:
            start = _now(cuda)
            segmenter.step(Frame(t, f"{t:05d}", rgb), prompts)
            total = _now(cuda) - start
        if t > 1:
            seconds.append(total)
            for name, values in stages.items():
                values.append(spent[name])
    return Speed(
        objects,
        len(seconds),
        statistics.median(seconds),
        {name: statistics.median(values) for name, values in stages.items()},
        meter.peak_bytes(),
        segmenter.state_bytes(),
    )


def _discs(rgb: RgbImage, objects: int) -> list[Prompt]:
    height, width = rgb.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    radius = min(height, width) / 12
    places = [width * (place + 1) / (objects + 1) for place in range(objects)]
    return [Prompt(i + 1, mask=np.hypot(rows - height / 2, columns - x) < radius) for i, x in enumerate(places)]


@contextmanager
def _clocks(network: nn.Module, cuda: bool) -> Iterator[dict[str, float]]:
    """Yield seconds by stage, filled while the block runs."""
    spent = dict.fromkeys(STAGES, 0.0)
    started: dict[str, float] = {}

    def before(name: str) -> None:
        started[name] = _now(cuda)

    def after(name: str) -> None:
        spent[name] += _now(cuda) - started[name]

    hooks = []
    for name in STAGES:
        module = network.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: before(name)))
        hooks.append(module.register_forward_hook(lambda *_, name=name: after(name)))
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()  # else the clock sees launches only
    return time.perf_counter()
