"""Scores of every code of a pursuit: by the published protocol, and clean (spec sections 3.1 and 7.11)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from object_pursuit.data.objects import DAVIS_VAL
from object_pursuit.fit.loop import evaluation_batches
from object_pursuit.model import CodeNetwork
from object_pursuit.pursuit.loop import StartPoint
from object_pursuit.quality import dice, jaccard, jaccard_pooled
from object_pursuit.samples import ObjectImages
from object_pursuit.segmenter import frozen_encoder
from object_pursuit.weights import read_code
from vos_core.contract import Precision
from vos_core.errors import OutputError
from vos_core.io.atomic import write_json
from vos_core.training.checkpoint import seed_everything
from vos_core.training.loop import autocast

BATCH = 8


@dataclass(frozen=True, slots=True)
class CodeScore:
    """Of one object.

    Args:
        index: of the code.
        data_dir: of the object.
        z_file: of the code.
        iou_batch: published protocol: overlap pooled over each batch of 8 random crops, dropout on; mean over batches.
        jaccard: mean overlap of whole images, dropout off.
        dice: likewise.
        images: scored.
    """

    index: int
    data_dir: str
    z_file: str
    iou_batch: float
    jaccard: float
    dice: float
    images: int


@torch.no_grad()
def evaluate_codes(
    run: Path,
    start: StartPoint,
    open_data: Callable[[str], ObjectImages],
    open_whole: Callable[[str], ObjectImages],
    *,
    zs: Path | None = None,
    encoder_norm: str = "batch",
    seed: int = 0,
    device: str = "cpu",
    precision: Precision = "fp32",
    tell: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Score every code that `z_info.json` lists, write `evaluation.json` and return it.

    Args:
        run: folder of a pursuit.
        start: networks.
        open_data: images by `data_dir`, cropped as in training.
        open_whole: the same, whole.
        zs: folder of codes; None = `<run>/zs`.
        encoder_norm: statistics of a shared encoder's norms: of the `batch`, as published, or the `running` ones stored.
        seed: of crops, orders and dropout.
        device: torch device string.
        precision: of the passes.
        tell: called with each score.

    Raises:
        OutputError: no record of codes.
        VosError: images or codes that cannot be read.
    """
    path = run / "z_info.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error})", expected="the output folder of object-pursuit pursue") from error
    encoder = None if start.encoder is None else frozen_encoder(start.encoder, encoder_norm).to(device)
    network = CodeNetwork(start.hypernet.to(device), encoder)
    rows: list[CodeScore] = []
    for entry in entries:
        seed_everything(seed * 1_000_003 + int(entry["index"]))
        z = read_code((zs or run / "zs") / entry["z_file"]).to(device)
        with autocast(precision, torch.device(device)):
            weights = network.hypernet(z)
        data, whole = open_data(entry["data_dir"]), open_whole(entry["data_dir"])
        network.dropout = "always"
        order = tuple(torch.randperm(len(data)).tolist())
        pooled = [one for one, _, _ in _scores(network, weights, data, order, device, precision)]
        network.dropout = "never"
        clean = _scores(network, weights, whole, tuple(range(len(whole))), device, precision)
        overlaps, dices = [v for _, some, _ in clean for v in some], [v for _, _, some in clean for v in some]
        row = CodeScore(
            int(entry["index"]),
            str(entry["data_dir"]),
            str(entry["z_file"]),
            sum(pooled) / len(pooled),
            sum(overlaps) / len(overlaps),
            sum(dices) / len(dices),
            len(whole),
        )
        rows.append(row)
        if tell is not None:
            tell(f"{row.data_dir}: IoU by batch {row.iou_batch:.3f}, clean J {row.jaccard:.3f}, Dice {row.dice:.3f}")
    validation = [row for row in rows if row.data_dir in DAVIS_VAL]
    result = {
        "objects": [asdict(row) for row in rows],
        "mean": _means(rows),
        "davis_2016_val": _means(validation) if validation else None,
    }
    write_json(run / "evaluation.json", result)
    return result


def _scores(
    network: CodeNetwork,
    weights: dict[str, torch.Tensor],
    data: ObjectImages,
    order: tuple[int, ...],
    device: str,
    precision: Precision,
) -> list[tuple[float, list[float], list[float]]]:
    found = []
    for number, indices in enumerate(evaluation_batches(order, min(BATCH, len(order)), partial="keep")):
        samples = data.read(indices, draw=number).to(device)
        with autocast(precision, torch.device(device)):
            logits = network.run(samples.images, weights).logits.float()
        mask = torch.sigmoid(logits) > 0.5
        hard = samples.masks > 0.5
        found.append((float(jaccard_pooled(mask, samples.masks)), jaccard(mask, hard).tolist(), dice(mask, hard).tolist()))
    return found


def _means(rows: list[CodeScore]) -> dict[str, float]:
    names = ("iou_batch", "jaccard", "dice")
    return {name: sum(getattr(row, name) for row in rows) / len(rows) for name in names} if rows else {}
