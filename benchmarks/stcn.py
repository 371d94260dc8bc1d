"""Seconds per frame and peak memory of STCN at 480x854, against a plain formulation of the same network on the same machine.

The plain one computes what the published equations say, the way they are written: float32, dense affinity with a scattered
top-k, everything once per object on concatenated inputs, norms as layers. Both run alternately, frame by frame, so that a
busy machine disturbs both alike; ratios are what counts.

    python benchmarks/stcn.py --frames 12 --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from measure import machine, peak_bytes
from torch.nn import functional as F

from stcn_ttt.config import SegmenterConfig
from stcn_ttt.model import STCN
from stcn_ttt.model.blocks import SharingResBlock
from stcn_ttt.prepare import View
from stcn_ttt.segmenter import STCNSegmenter
from vos_core.ops.backend import use_backends
from vos_core.run.memory import peak_resident_bytes
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 480, 854
MODES = ("plain", "fp32", "bf16")


@contextmanager
def plain_layers() -> Iterator[None]:
    """Let a network run its layers one by one: direct convolutions, norms as layers."""
    with use_backends("torch"), patch("stcn_ttt.model.resnet.convolve_and_norm", lambda x, conv, norm: norm(conv(x))):
        yield


class PlainSegmenter:
    """STCN as its equations are written; all objects in the first frame."""

    def __init__(self, network: STCN, *, top: int = 20, mem_every: int = 5) -> None:
        self.network, self.top, self.mem_every = network, top, mem_every
        self.time = 0

    @torch.inference_mode()
    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> np.ndarray:
        """Return the label map of one frame."""
        with plain_layers():
            return self._step(frame, prompts)

    def _step(self, frame: Frame, prompts: Sequence[Prompt]) -> np.ndarray:
        view = View(*frame.rgb.shape[:2], short_side=480)
        image = view.image(frame.rgb)
        features = self.network.encode_key(image)
        if prompts:
            prob = _aggregate(torch.stack([view.mask(prompt.mask) for prompt in prompts]))
            self.keys, self.values = features.key.unsqueeze(2), self._encode(image, features.f16, prob[1:]).unsqueeze(2)
        else:
            prob = _aggregate(torch.sigmoid(self._decode(self._read(features.key), features)[:, 0]))
            if self.time % self.mem_every == 0:
                self.keys = torch.cat((self.keys, features.key.unsqueeze(2)), 2)
                self.values = torch.cat((self.values, self._encode(image, features.f16, prob[1:]).unsqueeze(2)), 2)
        self.time += 1
        return view.restore(prob).argmax(0).to(torch.uint8).numpy()

    def _read(self, query: torch.Tensor) -> torch.Tensor:
        keys, query_flat = self.keys.flatten(2), query.flatten(2)
        similarity = (2 * keys.transpose(1, 2) @ query_flat - keys.square().sum(1).unsqueeze(2)) / 8
        values, indices = torch.topk(similarity, self.top, 1)
        weights = values.exp()
        affinity = torch.zeros_like(similarity).scatter_(1, indices, weights / weights.sum(1, keepdim=True))
        read = torch.bmm(self.values.flatten(2), affinity.expand(len(self.values), -1, -1))
        return read.view(*read.shape[:2], *query.shape[2:])

    def _encode(self, image: torch.Tensor, f16: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        encoder, parts = self.network.value_encoder, []
        for place in range(len(masks)):
            others = masks.sum(0) - masks[place]
            own = encoder.trunk(torch.cat((image, masks[place][None, None], others[None, None]), 1))
            x = _concatenated(encoder.fuser.block1, torch.cat((own, f16), 1))
            parts.append(encoder.fuser.block2(x + encoder.fuser.attention(x)))
        return torch.cat(parts)

    def _decode(self, readout: torch.Tensor, features: Any) -> torch.Tensor:
        decoder, count = self.network.decoder, len(readout)
        thin, f8, f4 = (x.expand(count, -1, -1, -1) for x in (features.thin, features.f8, features.f4))
        x = _concatenated(decoder.compress, torch.cat((readout, thin), 1))
        x = decoder.up_16_8(decoder.up_16_8.skip_conv(f8), x)
        x = decoder.up_8_4(decoder.up_8_4.skip_conv(f4), x)
        return F.interpolate(decoder.pred(F.relu(x)), scale_factor=4, mode="bilinear", align_corners=False)


def _concatenated(block: SharingResBlock, x: torch.Tensor) -> torch.Tensor:
    return block.conv2(F.relu(block.conv1(F.relu(x)))) + block.downsample(x)


def _aggregate(prob: torch.Tensor) -> torch.Tensor:
    both = torch.cat((torch.prod(1 - prob, 0, keepdim=True), prob)).clamp(1e-7, 1 - 1e-7)
    return torch.softmax(torch.log(both / (1 - both)), 0)


def synthetic_clip(objects: int) -> tuple[Callable[[int], Frame], list[Prompt]]:
    """Return a function from time to frame, and one disc per object as prompts."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8 + 40, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    prompts = [
        Prompt(place + 1, mask=(rows - 240) ** 2 + (columns - WIDTH * (place + 1) / (objects + 1)) ** 2 < 80**2)
        for place in range(objects)
    ]
    return lambda t: Frame(t, f"{t:05d}", np.ascontiguousarray(scene[:, 2 * t : 2 * t + WIDTH])), prompts


def make(mode: str) -> Any:
    """Return a segmenter with the same untrained weights for each mode."""
    torch.manual_seed(0)
    network = STCN()
    if mode == "plain":
        return PlainSegmenter(network)
    return STCNSegmenter(network, SegmenterConfig(), precision="bf16" if mode == "bf16" else "fp32")


def time_modes(objects: int, *, frames: int) -> dict[str, dict[str, float]]:
    """Return wall and CPU seconds per frame by mode: medians over the frames after the second, modes taking turns."""
    frame_at, prompts = synthetic_clip(objects)
    segmenters = {mode: make(mode) for mode in MODES}
    wall: dict[str, list[float]] = {mode: [] for mode in MODES}
    cpu: dict[str, list[float]] = {mode: [] for mode in MODES}
    for t in range(frames):
        for mode, segmenter in segmenters.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            segmenter.step(frame_at(t), prompts if t == 0 else ())
            if t > 1:  # the second frame packs weights for its shape
                wall[mode].append(time.perf_counter() - start)
                cpu[mode].append(time.process_time() - start_cpu)
    return {
        mode: {
            "wall_s": statistics.median(wall[mode]),
            "wall_min_s": min(wall[mode]),
            "wall_mean_s": statistics.fmean(wall[mode]),
            "cpu_s": statistics.median(cpu[mode]),
        }
        for mode in MODES
    }


def main() -> None:
    """Measure everything and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objects", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "stcn.json")
    parser.add_argument("--only", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        frame_at, prompts = synthetic_clip(args.objects[0])
        segmenter = make(args.only)
        for t in range(args.frames):
            segmenter.step(frame_at(t), prompts if t == 0 else ())
        print(peak_resident_bytes())
        return
    results = {}
    for objects in args.objects:
        load = os.getloadavg()[0]
        modes: dict[str, dict[str, float]] = time_modes(objects, frames=args.frames)
        for mode in MODES:
            modes[mode]["peak_bytes"] = peak_bytes(
                __file__, "--only", mode, "--objects", objects, "--frames", min(args.frames, 7)
            )
            for key in ("wall_s", "wall_min_s", "wall_mean_s", "cpu_s"):
                modes[mode][f"speedup_{key.removesuffix('_s')}"] = round(modes["plain"][key] / modes[mode][key], 2)
        results[f"{objects} objects"] = {"load_before": load, **modes}
        print(json.dumps(results[f"{objects} objects"], indent=2))
    record = {
        "what": f"STCN, untrained weights, {HEIGHT}x{WIDTH}, top 20, memory every 5 frames, {args.frames} frames",
        "threads": args.threads,
        "machine": machine(),
        "note": "speedups are against `plain`, the formulation in this script (not the original code), taking turns",
        "results": results,
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
