"""CPU time and memory of RSP: label propagation at 480x832 with a full queue and a pre-training step, against plain formulations.

The plain ones compute what the published equations say, the way they are written: attention as softmax(q k) v with its matrix,
the whole window built place by place, dense affinities of all source frames, everything in float32. Both sides run in turns, so
that a busy machine disturbs both alike; ratios are what counts. Seconds are CPU seconds per frame or step.

    python benchmarks/rsp.py --threads 2
    python benchmarks/rsp.py --threads 2 --stages    # also where they go
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import StageClock, machine
from torch import Tensor
from torch.nn import functional as F

from rsp_pretrain import segmenter, tracker
from rsp_pretrain.config import ARCHITECTURES, PropagationConfig
from rsp_pretrain.model import RSP, Draws, Encoder, build_rsp
from rsp_pretrain.model.latent import balanced_kl
from rsp_pretrain.model.network import patchify
from rsp_pretrain.prepare import normalise
from rsp_pretrain.segmenter import RSPSegmenter
from rsp_pretrain.train.schedule import optimizer_groups
from rsp_pretrain.weights import load_encoder
from vos_core.io.atomic import write_json
from vos_core.io.masks import write_mask
from vos_core.ops import propagation as propagation_op
from vos_core.run.memory import MemoryMeter
from vos_core.training.allocator import keep_freed_memory
from vos_core.training.loop import autocast
from vos_core.training.optim import build_optimizer
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 480, 854
MODES = ("plain", "fp32", "bf16")


def frame_at(index: int) -> Frame:
    """Return a frame of drifting noise with a square in it."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (HEIGHT // 8, WIDTH // 8 + 64, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    rgb = ground[:HEIGHT, 4 * index : 4 * index + WIDTH].copy()
    rgb[160:300, 200 + 5 * index : 360 + 5 * index] = (220, 40, 60)
    return Frame(index, f"{index:05d}", rgb)


def first_mask() -> np.ndarray:
    """Return the square in frame 0."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[160:300, 200:360] = True
    return mask


def plain_attention(qkv: Tensor, heads: int) -> Tensor:
    """Return attention with its matrix, `(B, L, D)`."""
    query, key, value = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(3)
    return (weights @ value).transpose(1, 2).flatten(2)


def plain_blocks(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Return the tokens after all blocks and the norm."""
    for block in encoder.blocks:
        tokens = tokens + block.attn.proj(plain_attention(block.attn.qkv(block.norm1(tokens)), block.attn.heads))
        tokens = tokens + block.mlp(block.norm2(tokens))
    return encoder.norm(tokens)


def plain_tokens(encoder: Encoder, images: Tensor) -> Tensor:
    """Return the tokens before the blocks."""
    patches = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2)
    tokens = torch.cat((encoder.cls_token.expand(len(images), -1, -1), patches), 1)
    return tokens + encoder.positions(*images.shape[2:])


class PlainPropagation:
    """Label propagation as its published script computes it."""

    def __init__(self, encoder: Encoder, config: PropagationConfig) -> None:
        self.encoder, self.config = encoder, config
        self.sources: list[tuple[Tensor, Tensor]] = []
        self.window: Tensor | None = None

    @torch.inference_mode()
    def start(self, frame: Frame, labels: Tensor, grid: tuple[int, int]) -> None:
        """Take the first frame and its one-hot labels `(C, L)`."""
        self.grid = grid
        self.sources = [(self._features(frame), labels)]

    @torch.inference_mode()
    def step(self, frame: Frame) -> Tensor:
        """Return the labels of a frame, `(C, L)`."""
        query = self._features(frame)
        labels = self._read(self._affinity(query))
        if len(self.sources) == self.config.n_last_frames + 1:
            del self.sources[1]
        self.sources.append((query, labels))
        self._label_map(labels)
        return labels

    def _features(self, frame: Frame) -> Tensor:
        return self._encode(normalise(frame.rgb, (self.grid[0] * self.encoder.patch, self.grid[1] * self.encoder.patch)))

    def _encode(self, image: Tensor) -> Tensor:
        return plain_blocks(self.encoder, plain_tokens(self.encoder, image))[0, 1:]

    def _affinity(self, query: Tensor) -> Tensor:
        sources = torch.stack([F.normalize(key, dim=1) for key, _ in self.sources])
        affinity = torch.exp(F.normalize(query, dim=1) @ sources.transpose(1, 2) / self.config.temperature)
        if self.window is None:
            self.window = plain_window(self.grid, self.config.size_mask_neighborhood)
        affinity = (affinity * self.window).transpose(1, 2).reshape(-1, query.shape[0])
        kth = torch.topk(affinity, self.config.topk, 0).values[-1]
        affinity[affinity < kth] = 0
        return affinity / affinity.sum(0, keepdim=True)

    def _read(self, affinity: Tensor) -> Tensor:
        return torch.cat([labels for _, labels in self.sources], 1) @ affinity

    def _label_map(self, labels: Tensor) -> Tensor:
        big = F.interpolate(labels.view(1, -1, *self.grid), scale_factor=self.encoder.patch, mode="bilinear")[0]
        big = torch.stack([(x - x.min()) / (x.max() - x.min()) if x.max() > 0 else x for x in big])
        return big.argmax(0).to(torch.uint8)


def plain_window(grid: tuple[int, int], reach: int) -> Tensor:
    """Return the 0/1 window, filled place by place, `(L, L)`."""
    height, width = grid
    window = torch.zeros(height, width, height, width)
    for i in range(height):
        for j in range(width):
            window[i, j, max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1] = 1
    return window.view(height * width, height * width)


def plain_decode(model: RSP, memory: Tensor) -> Tensor:
    """Return the predicted patches."""
    x = model.mask_token.expand(len(memory), model.patches + 1, -1) + model.decoder_pos_embed
    for block in model.decoder_blocks:
        heads = block.cattn.heads
        query = block.cattn.q(block.norm1(x)).unflatten(2, (heads, -1)).transpose(1, 2)
        key, value = block.cattn.kv(block.norm_kv1(memory)).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(2, 3) * query.shape[3] ** -0.5).softmax(3)
        x = x + block.cattn.proj((weights @ value).transpose(1, 2).flatten(2))
        x = x + block.attn.proj(plain_attention(block.attn.qkv(block.norm3(x)), heads))
        x = x + block.mlp2(block.norm4(x))
    return model.decoder_pred(model.decoder_norm(x))[:, 1:]


def plain_loss(model: RSP, present: Tensor, future: Tensor, draws: Draws) -> Tensor:
    """Return the loss as it is written: three encodings, three decodings, each by itself."""
    goal = model.objective

    def encode(images: Tensor) -> Tensor:
        return plain_blocks(model, plain_tokens(model, images))

    def target() -> Tensor:
        patches = patchify(future, model.patch)
        mean, variance = patches.mean(2, keepdim=True), patches.var(2, keepdim=True)
        return (patches - mean) / (variance + 1e-6) ** 0.5 if goal.norm_pix_loss else patches

    source = encode(present)
    noised = encode(future + goal.noise_scale * draws.noise)
    posterior = model.latent(model.to_posterior(torch.cat((source[:, 0], noised[:, 0]), 1)))
    prior = model.latent(model.to_prior(source[:, 0]))

    def predict(sample: Tensor) -> Tensor:
        stored = model.decoder_embed_deter(source) + model.decoder_pos_embed
        return plain_decode(model, torch.cat((model.decoder_embed_stoch(sample).unsqueeze(1), stored), 1))

    post = (predict(posterior.sample(draws.post)) - target()).square().mean()
    with torch.no_grad():
        (predict(prior.sample(draws.prior)) - target()).square().mean()
    order = draws.mask_noise.argsort(1)
    restore = order.argsort(1)
    keep = int(model.patches * (1 - goal.mask_ratio))
    tokens = plain_tokens(model, future)
    kept = torch.stack([row[1:][index[:keep]] for row, index in zip(tokens, order, strict=True)])
    visible = plain_blocks(model, torch.cat((tokens[:, :1], kept), 1))
    inner = model.decoder_embed_mae(visible)
    filled = torch.cat((inner[:, 1:], model.mask_token.expand(len(inner), model.patches - keep, -1)), 1)
    filled = torch.stack([row[index] for row, index in zip(filled, restore, strict=True)])
    rebuilt = plain_decode(model, torch.cat((inner[:, :1], filled), 1) + model.decoder_pos_embed)
    mask = (restore >= keep).float()
    mae = ((rebuilt - target()).square().mean(2) * mask).sum() / mask.sum()
    return post + mae + goal.kl_scale * balanced_kl(posterior, prior, balance=goal.kl_balance).clamp(min=goal.kl_freebit)


def propagation(variant: str, mode: str, frames: int, threads: int, *, stages: bool) -> dict[str, Any]:
    """Return what one mode needs with a full queue, and how much of its last map the object has; in a process of its own."""
    torch.set_num_threads(threads)
    encoder, _ = load_encoder(None, variant=variant)
    config = PropagationConfig()
    meter = MemoryMeter("cpu")
    seconds: list[tuple[float, float]] = []
    begin = time.process_time()
    step: Callable[[Frame], Any]
    plain: PlainPropagation | None = None
    ours = RSPSegmenter(encoder, config, precision="bf16" if mode == "bf16" else "fp32")
    ours.step(frame_at(0), [Prompt(1, mask=first_mask())])
    grid = ours.grid
    assert ours.tracker.soft is not None
    labels = ours.tracker.soft.flatten(1).clone()
    if mode == "plain":
        plain = PlainPropagation(encoder, config)
        plain.start(frame_at(0), labels, grid)
        del ours
        step = plain.step
    else:
        step = ours.step
    for index in range(1, config.n_last_frames + frames + 1):
        frame = frame_at(index % 60)
        wall, cpu = time.perf_counter(), time.process_time()
        step(frame)
        seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    soft = plain.sources[-1][1] if mode == "plain" else ours.tracker.soft.flatten(1)
    full = seconds[config.n_last_frames :]
    found: dict[str, Any] = {
        "cpu_s": statistics.median(cpu for _, cpu in full),
        "wall_s": statistics.median(wall for wall, _ in full),
        "clip_cpu_s": time.process_time() - begin,
        "peak_mib": meter.peak_bytes() / 2**20,
        "object_share": float(soft[1].mean()),
    }
    if stages:
        found["stages"] = propagation_stages(ours if plain is None else plain, step, frames)
    return found


def propagation_stages(method: Any, step: Callable[[Frame], Any], frames: int) -> dict[str, float]:
    """Return CPU seconds of each stage of a frame with a full queue, by the mean over frames; writing the mask is one."""
    clock = StageClock()
    if isinstance(method, PlainPropagation):
        places: list[tuple[Any, str, str]] = [
            (sys.modules[__name__], "normalise", "resize and normalise"),
            (method, "_encode", "encoder"),
            (method, "_affinity", "window and affinity"),
            (method, "_read", "read of labels"),
            (method, "_label_map", "resize of labels"),
        ]
    else:
        places = [
            (segmenter, "normalise", "resize and normalise"),
            (method.tracker, "encode", "encoder"),
            (tracker, "propagate_tokens", "window and affinity"),
            (propagation_op, "sparse_readout", "read of labels"),
            (segmenter, "stretched", "resize of labels"),
            (method, "_label_map", "resize of labels"),
        ]
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for place in places:
            stack.enter_context(clock.clocked(*place))
        for index in range(frames):
            frame = frame_at((30 + index) % 60)
            with clock.stage("rest"):
                step(frame)
            with clock.stage("write of the mask"):
                write_mask(Path(folder) / "mask.png", first_mask().astype(np.uint8))
    return clock.means(frames)


def training(variant: str, batch: int, steps: int, threads: int, rounds: tuple[str, ...] = MODES) -> dict[str, Any]:
    """Return what a step of each mode needs, the modes in turns on one machine."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as every training does; for the plain one too, since they share a process
    torch.manual_seed(0)
    present, future = torch.randn(batch, 3, 224, 224), torch.randn(batch, 3, 224, 224)
    models, optimizers = {}, {}
    for mode in rounds:
        torch.manual_seed(0)
        models[mode] = build_rsp(variant)
        groups = optimizer_groups(models[mode].named_parameters(), lr=1e-6, weight_decay=0.05)
        optimizers[mode] = build_optimizer("adamw", groups, fused=mode != "plain")
    runs: dict[str, list[tuple[float, float]]] = {mode: [] for mode in rounds}
    losses: dict[str, list[float]] = {mode: [] for mode in rounds}
    for step in range(steps + 1):
        for mode, model in models.items():
            draws = model.draw(future, generator=torch.Generator().manual_seed(step))
            wall, cpu = time.perf_counter(), time.process_time()
            optimizers[mode].zero_grad(set_to_none=True)
            with autocast("bf16" if mode == "bf16" else "fp32", torch.device("cpu")):
                if mode == "plain":
                    loss = plain_loss(model, present, future, draws)
                else:
                    loss = model(present, future, draws, with_prior=step % 20 == 0).loss
            loss.backward()  # type: ignore[no-untyped-call]
            optimizers[mode].step()
            runs[mode].append((time.perf_counter() - wall, time.process_time() - cpu))
            losses[mode].append(float(loss.detach()))
    cells: dict[str, dict[str, Any]] = {}
    for mode in rounds:
        assert math.isfinite(losses[mode][-1])
        wall_s, cpu_s = (statistics.median(run[part] for run in runs[mode][1:]) for part in (0, 1))
        cells[mode] = {"loss": losses[mode][0], "wall_s": wall_s, "cpu_s": cpu_s}
        print(f"{variant} {mode}: {cells[mode]}", file=sys.stderr, flush=True)
    return cells


def training_stages(variant: str, mode: str, batch: int, steps: int, threads: int) -> dict[str, float]:
    """Return CPU seconds of each stage of a step that is logged, by the mean over steps after the first.

    `decoder, prior` is the prediction that only the log shows: plain makes it every step, ours every 20th.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    present, future = torch.randn(batch, 3, 224, 224), torch.randn(batch, 3, 224, 224)
    model = build_rsp(variant)
    groups = optimizer_groups(model.named_parameters(), lr=1e-6, weight_decay=0.05)
    optimizer = build_optimizer("adamw", groups, fused=mode != "plain")
    clock = StageClock()
    this = sys.modules[__name__]

    def decoder() -> str:
        return "decoder" if torch.is_grad_enabled() else "decoder, prior"

    encoders = (
        [(this, "plain_tokens"), (this, "plain_blocks")] if mode == "plain" else [(model, "encode"), (model, "encode_visible")]
    )
    with ExitStack() as stack:
        for owner, name in encoders:
            stack.enter_context(clock.clocked(owner, name, "encoder"))
        owner, name = (this, "plain_decode") if mode == "plain" else (model, "decode")
        stack.enter_context(clock.clocked(owner, name, decoder))
        for number in range(steps + 1):
            if number == 1:
                clock.seconds.clear()
            draws = model.draw(future, generator=torch.Generator().manual_seed(number))
            with (
                clock.stage("latents and losses"),
                autocast("bf16" if mode == "bf16" else "fp32", torch.device("cpu")),
            ):
                loss = plain_loss(model, present, future, draws) if mode == "plain" else model(present, future, draws).loss
            with clock.stage("backward"):
                loss.backward()  # type: ignore[no-untyped-call]
            with clock.stage("optimiser"):
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
    return clock.means(steps)


def main() -> None:
    """Measure, print and write `records/rsp.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=3, help="measured with a full queue of 30")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8, help="pairs of a pre-training step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", default=["rsp_vit_small_patch16"], choices=list(ARCHITECTURES))
    parser.add_argument("--parts", nargs="+", default=["propagation", "training"], choices=["propagation", "training"])
    parser.add_argument("--stages", action="store_true", help="also time each stage")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "rsp.json")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(propagation(*arguments.one, arguments.frames, arguments.threads, stages=arguments.stages)))
        return
    record: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    record |= {
        "what": "CPU and wall seconds per frame (480x832, queue of 30) and per pre-training step (224x224 pairs)",
        "threads": arguments.threads,
        "batch": arguments.batch,
        "machine": machine(),
    }
    for variant in arguments.variants:
        for part in arguments.parts:
            if part == "training":
                cells = training(variant, arguments.batch, arguments.steps, arguments.threads)
                for mode in MODES if arguments.stages else ():
                    cells[mode]["stages"] = training_stages(variant, mode, arguments.batch, arguments.steps, arguments.threads)
            else:
                common = [sys.executable, __file__, "--frames", str(arguments.frames), "--threads", str(arguments.threads)]
                common += ["--stages"] if arguments.stages else []
                cells = {
                    mode: json.loads(subprocess.run([*common, "--one", variant, mode], check=True, capture_output=True).stdout)
                    for mode in MODES
                }
            for name, cell in cells.items():
                cell["times_less_cpu"] = cells["plain"]["cpu_s"] / cell["cpu_s"]
                cell["times_faster"] = cells["plain"]["wall_s"] / cell["wall_s"]
                shown = {key: value for key, value in cell.items() if key != "stages"} | cell.get("stages", {})
                print(f"{variant} {part} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in shown.items()))
            record.setdefault(part, {})[variant] = cells
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
