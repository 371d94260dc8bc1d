"""Seconds per frame and peak memory of R50-DeAOTL with RMem at 480x854 and a full bank, against a plain formulation.

The plain one computes what the published equations say, the way they are written: float32, frames of the bank concatenated at
every read, attention matrices of all layers in memory, keys of the local window unfolded and its attention spread to a matrix
over the padded map. All run alternately, frame by frame, so that a busy machine disturbs them alike; ratios are what counts. A
long-term frame is added at every frame, so that the bank is full from the eighth frame on and each of ours updates it.

    python benchmarks/rmem.py --frames 12 --threads 2          # speed, stages, peak memory
    python benchmarks/rmem.py --long 1000 --mode bf16          # memory and speed over a long clip
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from measure import machine, peak_bytes
from torch.nn import functional as F

from rmem_deaot.config import VARIANTS, SegmenterConfig
from rmem_deaot.memory import relevance
from rmem_deaot.model import AOTNetwork, attention, long_term, mask_unused
from rmem_deaot.model.long_term import FrameMemory
from rmem_deaot.prepare import View, input_size, upsample
from rmem_deaot.segmenter import RMemSegmenter
from vos_core.bank import RestrictedBank
from vos_core.run.memory import peak_resident_bytes, resident_bytes
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 480, 854
VARIANT = "r50_deaotl_rmem"
MODES = ("plain", "fp32", "bf16")
FULL = 8
"""Frames of a full bank; timing begins once it is."""


class PlainSegmenter:
    """RMem as its equations are written; one group, all objects in the first frame."""

    def __init__(self, network: AOTNetwork) -> None:
        self.network, self.time = network, 0
        self.weights: list[torch.Tensor] = []

    @torch.inference_mode()
    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> np.ndarray:
        """Return the label map of one frame."""
        network, size = self.network, frame.rgb.shape[:2]
        view = View(input_size(*size, max_long=1040, align_corners=True))
        self.weights.clear()
        with (
            mock.patch.object(attention, "local_attention", plain_local),
            mock.patch.object(attention, "attend", self._attend),
            mock.patch.object(long_term, "attend", self._attend),
        ):
            features = network.encode_image(view.image(frame.rgb))
            if prompts:
                self.memory, self.bank = FrameMemory(network), RestrictedBank()
                labels = torch.zeros(size, dtype=torch.int32)
                for prompt in prompts:
                    labels[torch.from_numpy(prompt.mask)] = prompt.object_id
                self.objects = len(prompts)
                identity = self._identity(view.labels(labels))
                found = network.propagate(features.projected, long=self.memory, id_emb=identity)
                share: list[float] = []
            else:
                found = network.propagate(features.projected, long=self.memory, short=self.short)
                logits = mask_unused(network.decode(found.maps, features), [self.objects])
                labels = torch.softmax(upsample(logits, size, align_corners=True), 1)[0].argmax(0)
                identity = self._identity(view.labels(labels.int()))
                mass = self.weights[0][0].unflatten(1, (len(self.memory.frames), -1)).sum(2)
                small = upsample(logits, features.size, align_corners=True)
                share = relevance(mass, torch.softmax(small[0], 0)[0].flatten()).tolist()
        self.short = network.write(found.pending, identity)
        self.memory.append(self.short)
        update = self.bank.add(self.time, share)
        if update.place is not None:
            del self.memory.frames[update.place]
        self.time += 1
        return labels.to(torch.uint8).numpy()

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, heads: int) -> torch.Tensor:
        weights = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(query.shape[2]), 2)
        self.weights.append(weights)  # of all layers, until the frame is done
        return weights @ value

    def _identity(self, labels: torch.Tensor) -> torch.Tensor:
        return self.network.encode_identity(self.network.one_hot(labels[None]))


def plain_local(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, heads: int, max_dis: int, bias: torch.Tensor
) -> torch.Tensor:
    """Return single-head local attention by unfolded keys and a matrix over the padded map."""
    (height, width), side = q.shape[2:], 2 * max_dis + 1
    window = F.unfold(k, side, padding=max_dis).view(q.shape[1], side**2, height * width)
    scores = (window * (q * q.shape[1] ** -0.5).flatten(2)[0].unsqueeze(1)).sum(0) + bias.flatten(3)[0, 0]
    inside = F.unfold(torch.ones(1, 1, height, width), side, padding=max_dis)[0] > 0
    weights = torch.softmax(scores.masked_fill(~inside, -torch.inf), 0)
    wide = width + 2 * max_dis
    rows, columns = torch.arange(height).view(-1, 1, 1, 1), torch.arange(width).view(1, -1, 1, 1)
    at = (rows + torch.arange(side).view(1, 1, -1, 1)) * wide + columns + torch.arange(side)
    spread = torch.zeros(height * width, (height + 2 * max_dis) * wide).scatter_(1, at.flatten(2).flatten(0, 1), weights.T)
    read = spread @ F.pad(v, (max_dis,) * 4).flatten(2)[0].T
    return read.T.unflatten(1, (height, width)).unsqueeze(0)


def synthetic_clip(height: int, width: int) -> tuple[Callable[[int], Frame], list[Prompt]]:
    """Return a function from time to frame, and a disc as prompt."""
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (height // 8 + 1, width // 8 + 300, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height // 2) ** 2 + (columns - width // 2) ** 2 < (height // 6) ** 2
    return lambda t: Frame(t, f"{t:05d}", np.ascontiguousarray(scene[:height, 2 * t : 2 * t + width])), [Prompt(1, mask=disc)]


def make(mode: str, **options: Any) -> Any:
    """Return a segmenter with the same untrained weights for each mode."""
    torch.manual_seed(0)
    network = AOTNetwork(VARIANTS[VARIANT].network).eval().requires_grad_(False)
    if mode == "plain":
        return PlainSegmenter(network)
    config = SegmenterConfig(lt_gap=1, memory_gap_cap=0, **options)
    return RMemSegmenter(network, VARIANTS[VARIANT], config, precision="bf16" if mode == "bf16" else "fp32")


@contextlib.contextmanager
def staged(segmenter: RMemSegmenter) -> Iterator[dict[str, list[float]]]:
    """Time the stages of a segmenter's frames while the context lasts; wall seconds by stage."""
    spent: dict[str, list[float]] = defaultdict(list)
    network = segmenter._network
    kept = {
        "encode": (network, "encode_image"),
        "propagate": (network, "propagate"),
        "decode": (network.decoder, "forward"),
        "write": (network, "write"),
        "identity": (network, "encode_identity"),
    }
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in kept.items():
            original = getattr(owner, attribute)

            def timed(*args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
                start = time.perf_counter()
                result = _original(*args, **kwargs)
                spent[_name].append(time.perf_counter() - start)
                return result

            stack.enter_context(mock.patch.object(owner, attribute, timed))
        yield spent


def time_modes(*, frames: int) -> dict[str, dict[str, Any]]:
    """Return wall and CPU seconds per frame by mode: medians over frames with a full bank, modes taking turns."""
    frame_at, prompts = synthetic_clip(HEIGHT, WIDTH)
    segmenters = {mode: make(mode) for mode in MODES}
    wall: dict[str, list[float]] = {mode: [] for mode in MODES}
    cpu: dict[str, list[float]] = {mode: [] for mode in MODES}
    stages: dict[str, dict[str, float]] = {}
    for t in range(frames):
        for mode, segmenter in segmenters.items():
            measure = staged(segmenter) if mode != "plain" and t == frames - 1 else contextlib.nullcontext()
            with measure as spent:
                start, start_cpu = time.perf_counter(), time.process_time()
                segmenter.step(frame_at(t), prompts if t == 0 else ())
                if t > FULL:
                    wall[mode].append(time.perf_counter() - start)
                    cpu[mode].append(time.process_time() - start_cpu)
            if spent:
                stages[mode] = {name: sum(values) for name, values in spent.items()}
    return {
        mode: {
            "wall_s": statistics.median(wall[mode]),
            "wall_min_s": min(wall[mode]),
            "cpu_s": statistics.median(cpu[mode]),
            **({"stages_wall_s": stages[mode]} if mode in stages else {"stages_wall_s": None}),
        }
        for mode in MODES
    }


def long_clip(frames: int, size: tuple[int, int], mode: str) -> dict[str, Any]:
    """Return speed, state and memory of a long clip: medians over each hundred frames, and what is held at its end."""
    frame_at, prompts = synthetic_clip(*size)
    segmenter, wall, cpu, rows = make(mode), [], [], []
    for t in range(frames):
        frame = frame_at(t % 1000)
        start, start_cpu = time.perf_counter(), time.process_time()
        segmenter.step(frame, prompts if t == 0 else ())
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        if t + 1 == FULL + 2 or (t + 1) % 100 == 0 or t + 1 == frames:
            row = {"frames": t + 1, "bank": len(segmenter.bank_frames), "state_bytes": segmenter.state_bytes()}
            row |= {"resident_bytes": resident_bytes(), "peak_bytes": peak_resident_bytes()}
            medians = {"wall_s": statistics.median(wall), "cpu_s": statistics.median(cpu)}
            rows.append(row | medians)
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if t + 1 > FULL + 2:
                wall.clear()
                cpu.clear()
    return {"size": list(size), "mode": mode, "rows": rows}


def image_size(text: str) -> tuple[int, int]:
    """Return height and width of `HxW`."""
    height, width = text.split("x")
    return int(height), int(width)


def main() -> None:
    """Measure and write the record; the parts that were not asked for stay as they are in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=12, help="frames of each mode; at least 10, as the bank is full after 8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--long", type=int, metavar="N", help="run one clip of N frames instead")
    parser.add_argument("--size", type=image_size, default=(HEIGHT, WIDTH), metavar="HxW", help="of the long clip's frames")
    parser.add_argument("--mode", choices=MODES[1:], default="fp32", help="of the long clip")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "rmem.json")
    parser.add_argument("--only", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.only:
        frame_at, prompts = synthetic_clip(HEIGHT, WIDTH)
        segmenter = make(args.only)
        for t in range(args.frames):
            segmenter.step(frame_at(t), prompts if t == 0 else ())
        print(peak_resident_bytes())
        return
    record = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    load = os.getloadavg()[0]
    if args.long:
        record["long_clip"] = {"load_before": load, "threads": args.threads, **long_clip(args.long, args.size, args.mode)}
    else:
        modes = time_modes(frames=args.frames)
        for mode in MODES:
            modes[mode]["peak_bytes"] = peak_bytes(__file__, "--only", mode, "--frames", FULL + 2, "--threads", args.threads)
            for key in ("wall_s", "wall_min_s", "cpu_s"):
                modes[mode][f"speedup_{key.removesuffix('_s')}"] = round(modes["plain"][key] / modes[mode][key], 2)
        record["results"] = {"load_before": load, "threads": args.threads, **modes}
    record |= {
        "what": f"{VARIANT}, untrained weights, {HEIGHT}x{WIDTH}, one object, full bank of 1 + 7, a bank update at every frame",
        "machine": machine(),
        "note": "speedups are against `plain`, the formulation in this script (not the original code), taking turns",
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
