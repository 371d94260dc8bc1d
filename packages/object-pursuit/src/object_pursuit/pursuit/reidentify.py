"""Is this object known? The best code is the one whose network segments it best (paper, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from object_pursuit.fit.features import FixedBatches
from object_pursuit.fit.rehearsal import chunks, codes_per_pass
from object_pursuit.model import CodeNetwork, Hypernet
from object_pursuit.model.network import Dropout
from object_pursuit.quality import dice
from object_pursuit.samples import ObjectImages
from vos_core.contract import Precision
from vos_core.training.loop import autocast

_CODES_AT_ONCE = 8


def reid_batches(count: int, share: float, batch: int) -> list[list[int]]:
    """Return random images of an object in batches, the last one as small as it comes; drawn from torch's global generator."""
    order = torch.randperm(count).tolist()[: max(1, int(share * count))]
    return [order[first : first + batch] for first in range(0, len(order), batch)]


@torch.no_grad()
def score_codes(
    codes: Tensor,
    data: ObjectImages,
    batches: list[list[int]],
    hypernet: Hypernet,
    encoder: nn.Module | None,
    *,
    dropout: Dropout = "always",
    device: str = "cpu",
    precision: Precision = "fp32",
) -> list[float]:
    """Return each code's Dice: batch means, averaged over batches.

    Images are encoded once and every code's weights are generated once, however many of the others there are.

    Args:
        codes: `(n, z_dim)`.
        data: the object.
        batches: which images.
        hypernet: as it is now.
        encoder: runs in training mode, so its norms use the statistics of the batch.
        dropout: `train` counts this as scoring.
        device: torch device string.
        precision: of the passes.
    """
    network = CodeNetwork(hypernet, encoder, dropout=dropout)
    network.train()
    place = torch.device(device)
    fixed = FixedBatches(data, batches, network, device=place)
    totals: list[float] = []
    for chunk in chunks(range(len(codes)), min(_CODES_AT_ONCE, codes_per_pass(hypernet))):
        with autocast(precision, place):
            weights = hypernet(codes[chunk].to(place))
            sums = torch.zeros(len(chunk), dtype=torch.float64)
            for batch, known in zip(fixed.read(0), fixed.encoders(always=True), strict=True):
                samples = batch.to(place)
                logits = network.run(samples.images, weights, encoder=known, scoring=True).logits.float()
                for row in range(len(chunk)):
                    mask = torch.sigmoid(logits[:, row : row + 1]) > 0.5
                    sums[row] += float(dice(mask, samples.masks).mean())
        totals += (sums / len(batches)).tolist()
    return totals


def best_code(scores: list[float]) -> int:
    """Return the first code with the highest score."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))
