"""A short training of a reduced SAM 2.1 from random weights on generated clips: does it learn to follow unseen objects?

The network has the memory, heads and prompts of the released ones, and an image encoder of five narrow blocks at 96 pixels.
Masks are the prompts. Held-out clips have other seeds. `copy` repeats the first mask.

    python benchmarks/sam2_training.py --output sam2_training          # ten minutes on one busy core
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine

from sam2_rcms.config import SegmenterConfig, TrunkConfig
from sam2_rcms.model import SAM2
from sam2_rcms.segmenter import SAM2Segmenter
from sam2_rcms.train.config import (
    ColourStep,
    DataConfig,
    FlipStep,
    NormaliseStep,
    OptimizerConfig,
    PromptConfig,
    ResizeStep,
    SamplerConfig,
    TrainConfig,
)
from sam2_rcms.train.run import TrainOptions, train
from sam2_rcms.weights import load_into
from vos_core.data.layout import open_layout
from vos_core.data.synthetic_write import ClipPlan, write_davis
from vos_core.io.frames import read_image
from vos_core.io.masks import read_clip_mask
from vos_core.metrics.boundary import boundary_measure
from vos_core.metrics.packed import pack
from vos_core.metrics.region import jaccard
from vos_core.report.charts import plain_figure
from vos_core.report.sheet import Picture, Section, Table, chart, write_sheet
from vos_core.training.distributed import Ranks
from vos_core.types import Frame, Prompt
from vos_core.weights.load import load_state

SIDE = 96
TRUNK = TrunkConfig(embed_dim=24, num_heads=1, stages=(1, 1, 2, 1), global_att_blocks=(3,))
TRAIN = ClipPlan(clips=60, frames=8, height=SIDE, width=SIDE, objects=1, scenarios=("motion",), seed=100)
HELD_OUT = ClipPlan(clips=12, frames=8, height=SIDE, width=SIDE, objects=1, scenarios=("motion",), seed=900)


def configuration(root: Path, steps: int, seed: int) -> TrainConfig:
    """Return the run: three frames a clip, two clips a step, a constant-to-tenth cosine from 2e-4."""
    return TrainConfig(
        variant="tiny",
        image_size=SIDE,
        drop_path_rate=0.0,
        dropout=0.0,
        weights="random",
        data=(DataConfig(root=root, layout="davis"),),
        sampler=SamplerConfig(num_frames=3),
        transforms=(FlipStep(), ResizeStep(sizes=(SIDE,)), ColourStep(), NormaliseStep()),
        prompts=PromptConfig(prob_to_use_pt_input_for_train=0.0, num_init_cond_frames_for_train=1),
        optimizer=OptimizerConfig(base_lr=2e-4, vision_lr=2e-4, weight_decay=0.01, layer_decay=1.0, clip_norm=10.0),
        steps=steps,
        batch_size=2,
        workers=0,
        precision="fp32",
        seed=seed,
    )


def score(network: SAM2, root: Path) -> tuple[dict[str, dict[str, float]], list[Picture]]:
    """Return J, F and J&F of the network and of `copy` over all frames but the first and last, and three pictures."""
    segmenter = SAM2Segmenter(network, SegmenterConfig(image_size=SIDE))
    rows: dict[str, list[tuple[float, float]]] = {"sam2-rcms": [], "copy": []}
    pictures = []
    for clip in open_layout("davis", root, "val"):
        segmenter.reset()
        first = read_clip_mask(clip, clip.frames[0].stem)
        strip = []
        for t, path in enumerate(clip.frames):
            rgb, truth = read_image(path), read_clip_mask(clip, path.stem)
            found = segmenter.step(Frame(t, path.stem, rgb), [Prompt(1, mask=first == 1)] if t == 0 else ()).labels
            strip.append(painted(rgb, truth == 1, found == 1))
            if 0 < t < len(clip.frames) - 1:
                for name, labels in (("sam2-rcms", found), ("copy", first)):
                    rows[name].append((jaccard(pack(truth == 1), pack(labels == 1)), boundary_measure(truth == 1, labels == 1)))
        if len(pictures) < 3:
            text = f"{clip.name}: truth left bright, prediction outlined red, frame by frame"
            pictures.append(Picture(np.concatenate(strip, 1), text))
    means = {name: np.mean(values, 0) for name, values in rows.items()}
    return {
        n: {"J": round(float(m[0]), 4), "F": round(float(m[1]), 4), "J&F": round(float(m.mean()), 4)} for n, m in means.items()
    }, pictures


def painted(rgb: np.ndarray, truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return a frame with all but the truth darkened and the border of the prediction in red."""
    picture = np.where(truth[..., None], rgb, rgb // 3).astype(np.uint8)
    inner = found.copy()
    inner[1:-1, 1:-1] &= found[2:, 1:-1] & found[:-2, 1:-1] & found[1:-1, 2:] & found[1:-1, :-2]
    picture[found & ~inner] = (255, 40, 40)
    return picture


def main() -> None:
    """Train, score, write `record.json` and `page.html`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=123)
    args = parser.parse_args()
    torch.set_num_threads(1)
    write_davis(args.output / "train", TRAIN)
    write_davis(args.output / "held_out", HELD_OUT)
    config = configuration(args.output / "train", args.steps, args.seed)
    final = train(config, TrainOptions(output=args.output / "run", trunk=TRUNK), Ranks())
    network = SAM2("tiny", trunk=TRUNK).eval()
    load_into(network, load_state(final), source=str(final))
    scores, pictures = score(network, args.output / "held_out")
    curve = [json.loads(line) for line in (args.output / "run" / "log.jsonl").read_text().splitlines()]
    losses = [{"step": row["step"], **{k: round(row[k], 5) for k in row if k.startswith("loss")}} for row in curve]
    record: dict[str, Any] = {
        "steps": args.steps,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "scores": scores,
        "losses": losses[:: max(1, len(losses) // 35)] + losses[-1:],
        "machine": machine(),
    }
    (args.output / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    figure = plain_figure("loss, log scale", x_title="step")
    figure.add_scatter(x=[row["step"] for row in losses], y=[row["loss"] for row in losses], mode="lines", name="loss")
    figure.update_yaxes(type="log")
    table = Table(("", "J", "F", "J&F"), tuple((n, *(f"{100 * s[k]:.1f}" for k in ("J", "F", "J&F"))) for n, s in scores.items()))
    fell = f"The loss falls from {losses[0]['loss']:.3g} to {losses[-1]['loss']:.3g} over {args.steps} steps."
    sections = [
        Section("Loss", text=(fell,), charts=(chart("Loss", figure, summary=fell),)),
        Section("Held-out clips, percent", tables=(table,), pictures=tuple(pictures)),
    ]
    write_sheet(
        args.output / "page.html", sections, title="SAM 2.1, reduced, from random weights", lead=str(__doc__).splitlines()[0]
    )
    print(json.dumps({"scores": scores, "first_loss": losses[0]["loss"], "last_loss": losses[-1]["loss"]}))


if __name__ == "__main__":
    main()
