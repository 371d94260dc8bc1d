"""Seconds per frame and peak memory of SAM 2.1 with RCMS, against a plain formulation of the same network on the same machine.

The plain one tracks one object after the other in float32 with torch's attention, brings all three masks of an object to image
size and computes constants anew in each frame, as the published code does. Modes take turns frame by frame, so that a busy
machine disturbs all alike; ratios are what counts. Frames of 480x854, squashed to the network's size.

    python benchmarks/sam2.py --size base_plus --objects 1 2 --frames 5 --threads 2
    python benchmarks/sam2.py --lengths 200 2000                 # does memory grow with the clip?
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import machine, peak_bytes
from torch.nn import functional as F

from sam2_rcms.config import SegmenterConfig, TrunkConfig
from sam2_rcms.engine import Engine
from sam2_rcms.memory import ObjectMemory, ReadRules, Record
from sam2_rcms.model import SAM2, ImageFeatures
from sam2_rcms.segmenter import SAM2Segmenter
from vos_core.run.memory import peak_resident_bytes
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 480, 854
MODES = ("plain", "fp32", "bf16")


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let linear layers and the activations after them run one by one."""

    def plain(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, activation: str = "none") -> torch.Tensor:
        y = F.linear(x, weight, bias)
        return y if activation == "none" else getattr(F, activation)(y)

    with ExitStack() as stack:
        for module in ("layers", "hiera", "memory_attention", "memory_encoder"):
            stack.enter_context(patch(f"sam2_rcms.model.{module}.linear", plain))
        yield


class PlainEngine(Engine):
    """SAM 2.1 as it is published: one object at a time, nothing kept between frames or shared between objects."""

    def __init__(self, network: SAM2, config: SegmenterConfig) -> None:
        super().__init__(network, config, batch_objects=False)
        self.network.memory_attention.late_values = False

    def encode(self, rgb: np.ndarray) -> ImageFeatures:
        """Encode a frame; the position embedding is interpolated again."""
        self.network.image_encoder.trunk._position = None
        with plain_layers():
            return super().encode(rgb)

    def track(
        self, image: ImageFeatures, memories: Sequence[ObjectMemory], frame: int, rules: ReadRules, *, reverse: bool = False
    ) -> list[Record]:
        """Track one object after the other; every candidate mask is brought to image size."""
        found = []
        for memory in memories:
            with self.precise(), plain_layers():
                self.network.sam_prompt_encoder._dense_pe = None
                features = self._read(image, [memory], frame, rules, reverse=reverse)
                out = self.network.heads(features, image, multimask=True, at_image_size="all")
                (record,) = self._records(out)
                self._encode(image, out.high, out.score, [record], binary=False)
                found.append(record)
        return found


def make(mode: str, size: str, image_size: int) -> SAM2Segmenter:
    """Return a segmenter with the same untrained weights for each mode; scores are kept positive, so that all is computed."""
    torch.manual_seed(0)
    network = SAM2(size).eval()
    with torch.no_grad():
        network.sam_mask_decoder.pred_obj_score_head.layers[2].bias += 10
    config = SegmenterConfig(image_size=image_size)
    segmenter = SAM2Segmenter(network, config, precision="bf16" if mode == "bf16" else "fp32")
    if mode == "plain":
        segmenter.predictor.engine = PlainEngine(network, config)
    return segmenter


def synthetic_clip(objects: int) -> tuple[Callable[[int], Frame], list[Prompt]]:
    """Return a function from time to frame, and one disc per object as prompts."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8 + 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    prompts = [
        Prompt(place + 1, mask=(rows - 240) ** 2 + (columns - WIDTH * (place + 1) / (objects + 1)) ** 2 < 40**2)
        for place in range(objects)
    ]
    return lambda t: Frame(t, f"{t:05d}", np.ascontiguousarray(scene[:, 2 * (t % 150) : 2 * (t % 150) + WIDTH])), prompts


def time_modes(modes: Sequence[str], size: str, objects: int, *, frames: int, image_size: int) -> dict[str, dict[str, float]]:
    """Return wall and CPU seconds per tracked frame by mode: medians over the frames after the first, modes taking turns."""
    frame_at, prompts = synthetic_clip(objects)
    segmenters = {mode: make(mode, size, image_size) for mode in modes}
    wall: dict[str, list[float]] = {mode: [] for mode in modes}
    cpu: dict[str, list[float]] = {mode: [] for mode in modes}
    for t in range(frames):
        for mode, segmenter in segmenters.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            segmenter.step(frame_at(t), prompts if t == 0 else ())
            if t:
                wall[mode].append(time.perf_counter() - start)
                cpu[mode].append(time.process_time() - start_cpu)
    found = {mode: {"wall_s": statistics.median(wall[mode]), "cpu_s": statistics.median(cpu[mode])} for mode in segmenters}
    for values in found.values():
        if "plain" in found:
            values["speedup_wall"] = round(found["plain"]["wall_s"] / values["wall_s"], 2)
            values["speedup_cpu"] = round(found["plain"]["cpu_s"] / values["cpu_s"], 2)
    return found


def time_stages(mode: str, size: str, *, image_size: int) -> dict[str, float]:
    """Return CPU seconds of each stage for one object with one and with seven memories in reach."""
    engine = make(mode, size, image_size).predictor.engine
    frame_at, _ = synthetic_clip(1)
    network, grid = engine.network, image_size // 16
    found: dict[str, float] = {}

    def clock(name: str, call: Callable[[], Any]) -> Any:
        start = time.process_time()
        out = call()
        found[name] = round(time.process_time() - start, 3)
        return out

    with engine.precise():
        engine.encode(frame_at(0).rgb)
        image = clock("image encoder", lambda: engine.encode(frame_at(1).rgb))
        for count in (1, 7):
            memories = [torch.randn(1, 64, grid, grid) for _ in range(count)]
            pointers, distances = torch.randn(1, count, 256), torch.arange(1, count + 1)[None]
            features = clock(
                f"memory attention, {count}",
                lambda m=memories, p=pointers, d=distances, n=count: network.read_memory(
                    image.stride16, m, list(range(n)), p, d, span=15
                ),
            )
        out = clock("mask decoder", lambda: network.heads(features, image, multimask=True))
        clock("memory encoder", lambda: network.encode_memory(image.stride16, out.high, out.score, scale=20, bias=-10))
    return found


def run_only(args: argparse.Namespace) -> None:
    """Run one mode alone and print the peak memory."""
    frame_at, prompts = synthetic_clip(args.objects[0])
    segmenter = make(args.only, args.size, args.image_size)
    for t in range(args.frames):
        segmenter.step(frame_at(t), prompts if t == 0 else ())
    print(peak_resident_bytes())


def memory_by_length(lengths: Sequence[int]) -> dict[str, int]:
    """Return the peak resident memory of this process when a clip has come to each length; a reduced encoder, to be quick."""
    torch.manual_seed(0)
    trunk = TrunkConfig(embed_dim=16, num_heads=1, stages=(1, 1, 1, 1), global_att_blocks=(2,))
    segmenter = SAM2Segmenter(SAM2("tiny", trunk=trunk).eval(), SegmenterConfig(image_size=64))
    frame_at, prompts = synthetic_clip(1)
    found = {}
    for t in range(max(lengths)):
        segmenter.step(frame_at(t), prompts if t == 0 else ())
        if t + 1 in lengths:
            found[str(t + 1)] = peak_resident_bytes()
    return found


def main() -> None:
    """Measure what was asked for and put it into the record; other entries of the record stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base_plus", "large"), default="tiny")
    parser.add_argument("--image-size", type=int, default=1024)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objects", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--stages", action="store_true", help="also time each stage")
    parser.add_argument("--peaks", action="store_true", help="also measure peak memory, each mode in a process of its own")
    parser.add_argument("--lengths", type=int, nargs="*", default=[], help="measure memory of clips of so many frames instead")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "sam2.json")
    parser.add_argument("--only", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        run_only(args)
        return
    results: dict[str, Any] = {}
    name = f"{args.size}, {args.image_size} px"
    if args.lengths:
        results["peak memory by length of one clip, reduced encoder, 64 px, 1 object"] = memory_by_length(args.lengths)
    for objects in () if args.lengths else args.objects:
        entry: dict[str, Any] = {"load_before": os.getloadavg()[0], "threads": args.threads, "frames": args.frames}
        entry |= time_modes(args.modes, args.size, objects, frames=args.frames, image_size=args.image_size)
        for mode in args.modes if args.peaks else ():
            own = ("--size", args.size, "--image-size", args.image_size, "--objects", objects, "--frames", args.frames)
            entry[mode]["peak_bytes"] = peak_bytes(__file__, "--only", mode, *own)
        results[f"{name}, {objects} objects"] = entry
    if args.stages:
        stages = {mode: time_stages(mode, args.size, image_size=args.image_size) for mode in args.modes}
        results[f"{name}, CPU seconds by stage"] = {"threads": args.threads, **stages}
    print(json.dumps(results, indent=2))
    known = json.loads(args.output.read_text(encoding="utf-8"))["results"] if args.output.is_file() else {}
    record = {
        "what": f"SAM 2.1 with RCMS, untrained weights, frames of {HEIGHT}x{WIDTH}; the first frame is left out",
        "machine": machine(),
        "note": "speedups are against `plain`, the formulation in this script (not the original code), taking turns",
        "results": {**known, **results},
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
