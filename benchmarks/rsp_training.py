"""A small pre-training run from end to end: does the loss fall, and do labels follow objects better than before it?

Trains a reduced RSP (patch 8, 192 channels, 4 blocks) on generated videos once per seed, then propagates labels on held-out clips
with each trained encoder, the same encoder untrained, raw RGB patches and the copied first mask. Everything is a function of the
seed. The gain is that of a seed over its own start; its mean and standard deviation over seeds are what the record is about.

    python benchmarks/rsp_training.py --seeds 1,2 --work work     # a killed run goes on with the same command
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import machine
from torch import Tensor

from rsp_pretrain.config import Architecture, Objective, PropagationConfig
from rsp_pretrain.data.pairs import PairConfig
from rsp_pretrain.model import RSP, Encoder
from rsp_pretrain.segmenter import RSPSegmenter
from rsp_pretrain.train.run import TrainOptions, pretrain
from rsp_pretrain.weights import load_encoder
from vos_core.baseline.copy import CopySegmenter
from vos_core.data.layout import open_layout
from vos_core.data.synthetic_write import ClipPlan, write_clips
from vos_core.io.atomic import write_json
from vos_core.io.frames import open_clip
from vos_core.io.masks import read_mask
from vos_core.metrics.boundary import boundary_measure
from vos_core.metrics.region import region_similarity
from vos_core.training.distributed import Ranks
from vos_core.types import Prompt

SIZES = Architecture(patch=8, dim=192, depth=4, heads=3, decoder_dim=128, decoder_depth=2, decoder_heads=4, image_size=64)
LOSSES = ("loss", "loss_post", "loss_prior", "kl", "loss_mae")
ENCODERS = ("untrained", "trained", "untrained, enlarged", "trained, enlarged")
SCENARIOS = ("lookalike", "crowd", "occlusion", "appearance", "mixed")
PROPAGATION = PropagationConfig(scale=(128, 192), n_last_frames=7, size_mask_neighborhood=4, topk=7, temperature=0.1)
ENLARGED = PROPAGATION.model_copy(update={"scale": (192, 288), "size_mask_neighborhood": 6})
"""Half as many tokens again on each side: a scale that no encoder here was trained at; the window reaches as far in pixels."""


class RgbPatches(Encoder):
    """Not an encoder: the pixels of each patch as its feature."""

    def encode(self, images: Tensor) -> Tensor:
        """Return normalised pixels, `(B, L + 1, 3 * patch^2)`; the class token is zero."""
        patches = torch.nn.functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        return torch.cat((torch.zeros_like(patches[:, :1]), patches), 1)


def score(encoder: Encoder | None, root: Path, config: PropagationConfig = PROPAGATION) -> dict[str, float]:
    """Return mean J and F over objects and frames after the first; None copies the first mask."""
    segmenter = CopySegmenter() if encoder is None else RSPSegmenter(encoder, config)
    j, f = [], []
    for clip in open_layout("folder", root).clips:
        source, segmenter_ids = open_clip(clip), []
        segmenter.reset()
        for index in range(len(source)):
            frame = source.read(index)
            truth = read_mask(clip.annotations[frame.name])
            prompts = []
            if index == 0:
                segmenter_ids = [int(value) for value in np.unique(truth) if value]
                prompts = [Prompt(value, mask=truth == value) for value in segmenter_ids]
            labels = segmenter.step(frame, prompts).labels
            if index:
                for value in segmenter_ids:
                    j.append(region_similarity(truth == value, labels == value))
                    f.append(boundary_measure(truth == value, labels == value))
    return {"J": float(np.mean(j)), "F": float(np.mean(f)), "J&F": float((np.mean(j) + np.mean(f)) / 2)}


def network(seed: int) -> RSP:
    """Return the reduced network at its start."""
    torch.manual_seed(seed)
    return RSP(SIZES, Objective(norm_pix_loss=True))


def untrained(seed: int) -> Encoder:
    """Return the encoder that training starts from."""
    encoder = Encoder(patch=SIZES.patch, dim=SIZES.dim, depth=SIZES.depth, heads=SIZES.heads, image_size=SIZES.image_size)
    encoder.load_state_dict({key: value for key, value in network(seed).state_dict().items() if key in encoder.state_dict()})
    return encoder.eval()


def main() -> None:
    """Train, score, print and write `records/rsp-training.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=120, help="over frame pairs; half as many over the videos")
    parser.add_argument("--videos", type=int, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--held-out", type=int, default=30, help="clips to score")
    parser.add_argument("--held-out-seed", type=int, default=1, help="of those clips; choose settings on others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    parser.add_argument("--work", type=Path, help="folder of clips and checkpoints, kept; a repeated command goes on")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "rsp-training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        size = {"height": 128, "width": 192}
        train, held_out = work / "train", work / f"held-out-{arguments.held_out_seed}"
        write_clips(train, ClipPlan(clips=arguments.videos, frames=16, scenarios=SCENARIOS, seed=1000, **size), layout="folder")
        held = ClipPlan(clips=arguments.held_out, frames=16, scenarios=SCENARIOS, seed=arguments.held_out_seed, **size)
        write_clips(held_out, held, layout="folder")
        rgb = RgbPatches(patch=SIZES.patch, dim=SIZES.dim, depth=1, heads=SIZES.heads, image_size=SIZES.image_size)
        fixed = {
            "copy": score(None, held_out),
            "rgb patches": score(rgb, held_out),
            "rgb patches, enlarged": score(rgb, held_out, ENLARGED),
        }
        runs = [one_seed(seed, train, work / f"seed-{seed}", held_out, arguments) for seed in arguments.seeds]
    for name, row in fixed.items():
        print(f"{name:<21} " + "  ".join(f"{key} {100 * value:.1f}" for key, value in row.items()))
    for run in runs:
        for name in ENCODERS:
            print(f"seed {run['seed']} {name:<19} " + "  ".join(f"{key} {100 * value:.1f}" for key, value in run[name].items()))
    summary = summarised(runs)
    for name, row in summary.items():
        print(f"{name:<21} J&F {100 * row['mean']:.1f} +- {100 * row['deviation']:.1f} over {len(runs)} seeds")
    record = {
        "what": "a reduced RSP on generated videos; J and F of label propagation on held-out clips, both 0-1",
        "command": "python benchmarks/rsp_training.py",
        "settings": {name: str(value) for name, value in vars(arguments).items() if name not in ("work", "output")},
        "machine": machine(),
        "propagation": PROPAGATION.model_dump(),
        "scores": fixed,
        "enlarged": ENLARGED.model_dump(),
        "summary": summary,
        "runs": runs,
    }
    write_json(arguments.output, record)


def one_seed(seed: int, train: Path, output: Path, held_out: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train (or go on), and return losses and scores of one seed."""
    options = TrainOptions(
        data=train / "JPEGImages",
        output=output,
        objective=Objective(norm_pix_loss=True),
        pairs=PairConfig(size=SIZES.image_size, max_distance=12),
        batch_size=arguments.batch,
        epochs=arguments.epochs,
        warmup_epochs=arguments.epochs / 10,
        lr=1e-3,
        precision=arguments.precision,
        workers=0,
        save_epochs=10**6,
        log_every=10,
        seed=seed,
    )
    encoder, _ = load_encoder(pretrain(options, Ranks(), network=network(seed)))
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return {
        "seed": seed,
        "steps": lines[-1]["step"],
        "loss": [{"step": line["step"], **{name: round(line[name], 5) for name in LOSSES}} for line in sampled(lines)],
        "untrained": score(untrained(seed), held_out),
        "trained": score(encoder, held_out),
        "untrained, enlarged": score(untrained(seed), held_out, ENLARGED),
        "trained, enlarged": score(encoder, held_out, ENLARGED),
    }


def summarised(runs: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return mean and deviation over seeds of each encoder's J&F, and of what a seed gains over its own start."""
    columns = {name: [run[name]["J&F"] for run in runs] for name in ENCODERS}
    columns["gain"] = [run["trained"]["J&F"] - run["untrained"]["J&F"] for run in runs]
    columns["gain, enlarged"] = [run["trained, enlarged"]["J&F"] - run["untrained, enlarged"]["J&F"] for run in runs]
    return {name: {"mean": float(np.mean(values)), "deviation": deviation(values)} for name, values in columns.items()}


def sampled(lines: list[dict[str, Any]], count: int = 20) -> list[dict[str, Any]]:
    """Return about `count` of the lines of a log; the first and the last always."""
    return [*lines[: -1 : max(1, len(lines) // count)], lines[-1]]


def deviation(values: list[float]) -> float:
    """Return the standard deviation of a sample; 0 for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
