"""Re-identification alone: the code that segments an object best, and whether it does so well enough (spec section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from object_pursuit.parts import Parts
from object_pursuit.pursuit.reidentify import score_codes
from object_pursuit.samples import ObjectImages
from object_pursuit.segmenter import frozen_encoder
from vos_core.contract import Precision


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
    device: str = "cpu",
    precision: Precision = "fp32",
) -> list[Claim]:
    """Return the claim on each object; an incomplete last batch counts by its images' mean like the others.

    Args:
        parts: network and codes.
        objects: to ask about.
        tau: threshold.
        images: of each object at most, drawn at random.
        batch: images whose norms share their statistics.
        seed: of that draw.
        device: torch device string.
        precision: of the passes.
    """
    encoder = None if parts.encoder is None else frozen_encoder(parts.encoder, "batch").to(device)
    hypernet = parts.hypernet.to(device)
    found = []
    for place, data in enumerate(objects):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed + place)).tolist()[:images]
        batches = [order[first : first + batch] for first in range(0, len(order), batch)]
        scores = score_codes(parts.codes, data, batches, hypernet, encoder, dropout="never", device=device, precision=precision)
        best = max(range(len(scores)), key=lambda number: (scores[number], number))
        name = Path(data.name).name
        found.append(Claim(name, parts.names[best], scores[best], scores[best] > tau, _correct(parts, best, name)))
    return found


def _correct(parts: Parts, code: int, name: str) -> bool | None:
    learned_from = parts.objects[code]
    if learned_from is None and name not in parts.objects:
        return None
    return learned_from == name
