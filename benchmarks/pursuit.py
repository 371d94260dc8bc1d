"""CPU seconds and memory of object pursuit at its published size, against a plain formulation of the same on the same machine.

`segment`: 480p frames at 256 x 256 with one code; plain generates the weights anew for every batch of 8 frames, layer by layer as
they are written. `base`: one step of a new base with 12 remembered codes, of which two are rehearsed; plain generates the three
codes one by one, layer by layer, and goes back through every remembered tensor's norm. Each mode is a process of its own, so its
peak memory is its own.

    python benchmarks/pursuit.py --threads 2
    python benchmarks/pursuit.py --threads 2 --stages    # also where they go
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measure import StageClock, machine
from torch import Tensor

from object_pursuit.config import PRESETS
from object_pursuit.fit import BASE, Fitter, Rehearsal
from object_pursuit.fit.fitter import predictor, rmsprop
from object_pursuit.model import Singlenet, build_encoder, build_hypernet
from object_pursuit.quality import positive_weight
from object_pursuit.samples import Samples
from vos_core.run.memory import peak_resident_bytes
from vos_core.training.allocator import keep_freed_memory
from vos_core.training.checkpoint import seed_everything

STAGES, MODES = ("segment", "base"), ("plain", "fp32", "bf16")
FRAMES, REMEMBERED = 8, 12


def samples(batches: int) -> list[Samples]:
    """Return random pictures with half of each as the object; speed does not depend on what they show."""
    found = []
    for _ in range(batches):
        masks = torch.zeros(FRAMES, 1, 256, 256)
        masks[:, :, 64:192, 64:192] = 1
        found.append(Samples(torch.rand(FRAMES, 3, 256, 256), masks))
    return found


def network(mode: str) -> Singlenet:
    """Return an untrained network of the published size with a frozen encoder."""
    seed_everything(0)
    config = PRESETS["backbone"]
    encoder = build_encoder(config)
    assert encoder is not None
    made = Singlenet(build_hypernet(config), encoder.requires_grad_(False), dropout="never")
    made.hypernet.exact_order = mode == "plain"
    return made.train()


def stage_seconds(model: Singlenet, run: Callable[[Samples], Any], *, frames: int) -> dict[str, float]:
    """Return CPU seconds of each stage of `run` on one batch, by `frames`; what runs between the stages is the rest."""
    clock = StageClock()
    with ExitStack() as stack:
        for owner, attribute, name in (
            (model.backbone, "forward", "encoder"),
            (model.hypernet, "forward", "hypernetwork"),
            (model, "run", "generated network"),
            (Tensor, "backward", "backward"),
            (torch.optim.RMSprop, "step", "optimiser"),
        ):
            stack.enter_context(clock.clocked(owner, attribute, name))
        (batch,) = samples(1)
        with clock.stage("rest"):
            run(batch)
    return clock.means(frames)


def segment(mode: str, repeats: int, *, stages: bool) -> dict[str, Any]:
    """Return CPU and wall seconds per frame: of the passes, and of generating the weights of a code."""
    model, batches = network(mode).requires_grad_(False), samples(repeats)
    precision = "bf16" if mode == "bf16" else "fp32"
    cpu, wall = [], []
    generating = 0.0
    with torch.inference_mode():
        if mode != "plain":
            begun = time.process_time()
            predict = predictor(model, precision=precision)  # type: ignore[arg-type]
            generating = time.process_time() - begun

        def run(batch: Samples) -> Any:
            if mode == "plain":
                return model.run(batch.images, model.hypernet(model.z))
            return predict(batch.images, None)

        for batch in batches:
            c, w = time.process_time(), time.perf_counter()
            run(batch)
            cpu.append((time.process_time() - c) / FRAMES)
            wall.append((time.perf_counter() - w) / FRAMES)
        found: dict[str, Any] = {
            "cpu_s_per_frame": statistics.median(cpu),
            "wall_s_per_frame": statistics.median(wall),
            "cpu_s_per_code": generating,
        }
        if stages:
            found["stages"] = stage_seconds(model, run, frames=FRAMES)
    return found


def base(mode: str, repeats: int, *, stages: bool) -> dict[str, Any]:
    """Return CPU and wall seconds of a step."""
    model = network(mode)
    codes = torch.randn(REMEMBERED, model.hypernet.z_dim)
    with torch.no_grad():
        target = {name: 0.9 * value for name, value in model.hypernet(codes[0]).items()}
    step = plain_step(model, codes, target) if mode == "plain" else our_step(model, codes, target, mode)
    cpu, wall, losses = [], [], []
    for batch in samples(repeats):
        c, w = time.process_time(), time.perf_counter()
        losses.append(step(batch))
        cpu.append(time.process_time() - c)
        wall.append(time.perf_counter() - w)
    found: dict[str, Any] = {
        "cpu_s_per_step": statistics.median(cpu),
        "wall_s_per_step": statistics.median(wall),
        "loss": losses[0],
    }
    if stages:
        found["stages"] = stage_seconds(model, step, frames=1)
    return found


def plain_step(model: Singlenet, codes: Tensor, target: dict[str, Tensor]) -> Any:
    """Return the step as it is written in the paper and its code."""
    optimizer, rng = rmsprop(model, lr=BASE.lr), random.Random(0)

    def step(batch: Samples) -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(batch.images)
        weight = torch.tensor(positive_weight(batch.masks))
        loss = F.binary_cross_entropy_with_logits(logits, batch.masks, pos_weight=weight)
        (loss + BASE.l1 * model.z.abs().mean()).backward()  # type: ignore[no-untyped-call]
        for index in rng.sample(range(REMEMBERED), REMEMBERED // 5):
            generated = model.hypernet(codes[index])
            for name, value in generated.items():
                (BASE.memory * torch.norm(value - target[name])).backward(retain_graph=True)  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(model: Singlenet, codes: Tensor, target: dict[str, Tensor], mode: str) -> Any:
    """Return the step of a pursuit."""
    keep_freed_memory()  # as every fit does
    memory = Rehearsal(codes, [lambda: target] * REMEMBERED, rng=random.Random(0))
    fitter = Fitter(model, BASE, rehearsal=memory, precision="bf16" if mode == "bf16" else "fp32")
    return lambda batch: fitter.step(batch).loss


def main() -> None:
    """Measure, print and write `records/pursuit.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=2, help="batches of 8 frames to segment, in turns")
    parser.add_argument("--steps", type=int, default=1, help="steps of a new base, in turns")
    parser.add_argument("--stages", action="store_true", help="also time each stage, in one more batch or step")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "pursuit.json")
    parser.add_argument("--child", nargs=2, metavar=("STAGE", "MODE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        stage, mode = arguments.child
        measure, repeats = (segment, arguments.batches) if stage == "segment" else (base, arguments.steps)
        row = measure(mode, repeats, stages=arguments.stages)
        print(json.dumps({**row, "peak_bytes": peak_resident_bytes()}))
        return
    results: dict[str, dict[str, Any]] = {}
    load = os.getloadavg()
    for stage in STAGES:
        for mode in MODES:
            words = [sys.executable, __file__, "--threads", str(arguments.threads), "--child", stage, mode]
            words += ["--batches", str(arguments.batches), "--steps", str(arguments.steps)]
            words += ["--stages"] if arguments.stages else []
            results.setdefault(stage, {})[mode] = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
        unit = "frame" if stage == "segment" else "step"
        for mode, row in results[stage].items():
            for clock in ("cpu", "wall"):
                key = f"{clock}_s_per_{unit}"
                row[f"times_faster_{clock}"] = results[stage]["plain"][key] / row[key]
            print(
                f"{stage} {mode}: {row[f'cpu_s_per_{unit}']:.3f} CPU s, {row['times_faster_cpu']:.2f}x (wall "
                f"{row['times_faster_wall']:.2f}x), {row['peak_bytes'] / 2**20:.0f} MiB"
                + "".join(f", {name} {seconds:.3f}" for name, seconds in row.get("stages", {}).items())
            )
    record = {
        "what": "object pursuit, untrained weights of the published size, 256x256, batches of 8",
        "threads": arguments.threads,
        "load": load,
        "machine": machine(),
        "note": "times_faster compares with `plain`, the formulation in this script (not the original code)",
        "results": results,
    }
    arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
