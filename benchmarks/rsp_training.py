"""A small pre-training run from end to end: does the loss fall, and do labels follow objects better than before it?

Trains a reduced RSP (patch 8, 192 channels, 4 blocks) on generated videos, then propagates labels on held-out clips with the
trained encoder, the same encoder untrained, raw RGB patches and the copied first mask. Everything is a function of the seed.

    python benchmarks/rsp_training.py --minutes 8 --threads 1
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
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
from vos_core.errors import InterruptError
from vos_core.io.atomic import write_json
from vos_core.io.frames import open_clip
from vos_core.io.masks import read_mask
from vos_core.metrics.boundary import boundary_measure
from vos_core.metrics.region import region_similarity
from vos_core.training.distributed import Ranks
from vos_core.types import Prompt

SIZES = Architecture(patch=8, dim=192, depth=4, heads=3, decoder_dim=128, decoder_depth=2, decoder_heads=4, image_size=64)
SCENARIOS = ("lookalike", "crowd", "occlusion", "appearance", "mixed")
PROPAGATION = PropagationConfig(scale=(128, 192), n_last_frames=7, size_mask_neighborhood=4, topk=7, temperature=0.1)


class RgbPatches(Encoder):
    """Not an encoder: the pixels of each patch as its feature."""

    def encode(self, images: Tensor) -> Tensor:
        """Return normalised pixels, `(B, L + 1, 3 * patch^2)`; the class token is zero."""
        patches = torch.nn.functional.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        return torch.cat((torch.zeros_like(patches[:, :1]), patches), 1)


def score(encoder: Encoder | None, root: Path) -> dict[str, float]:
    """Return mean J and F over objects and frames after the first; None copies the first mask."""
    segmenter = CopySegmenter() if encoder is None else RSPSegmenter(encoder, PROPAGATION)
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
    parser.add_argument("--epochs", type=int, default=300, help="over frame pairs; half as many over the videos")
    parser.add_argument("--minutes", type=float, default=60, help="stop and score what there is after this")
    parser.add_argument("--videos", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of clips and checkpoints, kept; a repeated command goes on")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "records" / "rsp-training.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        size = {"height": 128, "width": 192}
        write_clips(
            work / "train", ClipPlan(clips=arguments.videos, frames=16, scenarios=SCENARIOS, seed=1000, **size), layout="folder"
        )
        write_clips(work / "held-out", ClipPlan(clips=10, frames=16, scenarios=SCENARIOS, seed=1, **size), layout="folder")
        options = TrainOptions(
            data=work / "train" / "JPEGImages",
            output=work / "run",
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
            seed=arguments.seed,
        )
        timer = threading.Timer(60 * arguments.minutes, lambda: os.kill(os.getpid(), signal.SIGTERM))
        timer.start()
        try:
            pretrain(options, Ranks(), network=network(arguments.seed))
        except InterruptError as stopped:
            print(stopped)
        timer.cancel()
        newest = max((work / "run").glob("checkpoint_*.pth"), key=lambda path: int(path.stem.split("_")[1]))
        rows: dict[str, Any] = {"copy": score(None, work / "held-out")}
        rgb = RgbPatches(patch=SIZES.patch, dim=SIZES.dim, depth=1, heads=SIZES.heads, image_size=SIZES.image_size)
        rows["rgb patches"] = score(rgb, work / "held-out")
        rows["untrained"] = score(untrained(arguments.seed), work / "held-out")
        rows["trained"] = score(load_encoder(newest)[0], work / "held-out")
        lines = [json.loads(line) for line in (work / "run" / "log.jsonl").read_text().splitlines()]
    for name, row in rows.items():
        print(f"{name:<12} " + "  ".join(f"{key} {100 * value:.1f}" for key, value in row.items()))
    keep = ("loss", "loss_post", "loss_prior", "kl", "loss_mae")
    record = {
        "what": "a reduced RSP on generated videos; J and F of label propagation on ten held-out clips, both 0-1",
        "command": "python benchmarks/rsp_training.py",
        "settings": {name: str(value) for name, value in vars(arguments).items() if name not in ("work", "output")},
        "machine": machine(),
        "steps": lines[-1]["step"],
        "loss": [
            {"step": line["step"], **{name: round(line[name], 5) for name in keep}} for line in lines[:: max(1, len(lines) // 40)]
        ],
        "last": {name: lines[-1][name] for name in keep},
        "propagation": PROPAGATION.model_dump(),
        "scores": rows,
    }
    write_json(arguments.output, record)


if __name__ == "__main__":
    main()
