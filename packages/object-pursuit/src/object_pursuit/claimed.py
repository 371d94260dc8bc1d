"""Re-identification alone: the code that segments an object best, and whether it does so well enough (spec section 3.3)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from object_pursuit.parts import Parts
from object_pursuit.pursuit.reidentify import score_codes
from object_pursuit.samples import ObjectImages
from object_pursuit.segmenter import frozen_encoder
from vos_core.contract import Precision
from vos_core.errors import UsageError, WeightsError

PartialBatches = Literal["keep", "drop"]


@dataclass(frozen=True, slots=True)
class Claim:
    """The best code of an object.

    Args:
        name: of the object.
        code: name of the code; of equals the later one.
        dice: mean over batches of the mean over images.
        seen: whether that exceeds the threshold.
        correct: whether the code was learned from this object, by its record. A code without a record is wrong where another one
            is recorded as this object's; where none is, nobody knows: None.
    """

    name: str
    code: str
    dice: float
    seen: bool
    correct: bool | None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def claim_objects(
    parts: Parts,
    objects: Sequence[ObjectImages],
    *,
    tau: float,
    images: int = 400,
    batch: int = 64,
    seed: int = 0,
    partial: PartialBatches = "keep",
    device: str = "cpu",
    precision: Precision = "fp32",
) -> list[Claim]:
    """Return the claim on each object.

    Args:
        parts: network and codes.
        objects: to ask about.
        tau: threshold.
        images: of each object at most, drawn at random.
        batch: images whose norms share their statistics.
        seed: of that draw.
        partial: `keep` counts an incomplete last batch like the others; `drop` leaves it out, as the original.
        device: torch device string.
        precision: of the passes.

    Raises:
        UsageError: an object without one full batch, with `drop`.
    """
    encoder = None if parts.encoder is None else frozen_encoder(parts.encoder, "batch").to(device)
    hypernet = parts.hypernet.to(device)
    found = []
    for place, data in enumerate(objects):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed + place)).tolist()[:images]
        batches = [order[first : first + batch] for first in range(0, len(order), batch)]
        if partial == "drop":
            batches = [indices for indices in batches if len(indices) == batch]
        if not batches:
            raise UsageError(
                f"object {data.name} has {len(order)} images, which fill no batch of {batch}",
                fix="Use --partial-batches keep, or a smaller --batch-size",
            )
        scores = score_codes(parts.codes, data, batches, hypernet, encoder, dropout="never", device=device, precision=precision)
        best = max(range(len(scores)), key=lambda number: (scores[number], number))
        name = Path(data.name).name
        found.append(Claim(name, parts.names[best], scores[best], scores[best] > tau, _correct(parts, best, name)))
    return found


def recorded_accuracy(path: Path) -> dict[str, float]:
    """Return name of an object -> accuracy, 0-1, from an evaluation that pretraining wrote (`eval/log_epoch_*.json`).

    Raises:
        UsageError: no such file.
        WeightsError: one that is no such record.
    """
    if not path.is_file():
        raise UsageError(
            f"{path} does not exist", expected="an evaluation of pretrain, such as joint/eval/log_epoch_0100_acc_0.9.json"
        )
    try:
        return {Path(row["data_dir"]).name: float(row["acc"]) for row in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} is no evaluation of pretrain ({error})", expected="a list of {data_dir, acc}") from error


def _correct(parts: Parts, code: int, name: str) -> bool | None:
    learned_from = parts.objects[code]
    if learned_from is None and name not in parts.objects:
        return None
    return learned_from == name
