"""The space of codes as numbers: projections, neighbours, paths, and which code claims which object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from object_pursuit.model import Hypernet
from object_pursuit.model.primary import run_stages
from object_pursuit.quality import dice
from object_pursuit.samples import Samples
from vos_core.errors import UsageError

Projection = Literal["pca", "directions"]
CODES_AT_ONCE = 4


def project(codes: Tensor, how: Projection = "pca") -> tuple[Tensor, Tensor]:
    """Return places in the plane `(K, 2)` and the share of all variation that each axis shows `(2,)`.

    Args:
        codes: `(K, z_dim)`.
        how: `pca` keeps as much of the variance as two axes can; `directions` does so for codes scaled to one length, whose
            distances are those of their angles.

    Raises:
        UsageError: fewer than two codes.
    """
    if len(codes) < 2:
        raise UsageError(f"{len(codes)} code", expected="two codes or more to draw a space of them")
    wide = codes.double()
    if how == "directions":
        wide = nn.functional.normalize(wide, dim=1)
    left, values, _ = torch.linalg.svd(wide - wide.mean(0), full_matrices=False)
    axes, strength = left * values, values.square()
    places = torch.zeros(len(wide), 2, dtype=torch.float64)
    shares = torch.zeros(2, dtype=torch.float64)
    count = min(2, axes.shape[1])
    places[:, :count] = axes[:, :count]
    shares[:count] = strength[:count] / strength.sum().clamp(min=1e-12)
    # The sign of an axis means nothing; fix it, so that the same codes give the same picture.
    flip = torch.where(places.gather(0, places.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    return places * flip, shares


def cosines(codes: Tensor) -> Tensor:
    """Return the cosine of the angle between every two codes, `(K, K)`, -1 to 1."""
    unit = nn.functional.normalize(codes.double(), dim=1)
    return (unit @ unit.T).clamp(-1, 1)


def neighbours(codes: Tensor, count: int = 3) -> list[list[tuple[int, float, float]]]:
    """Return for each code its nearest others, nearest first: (number, Euclidean distance, cosine)."""
    distance = torch.cdist(codes.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    angle = cosines(codes)
    distance.fill_diagonal_(float("inf"))
    nearest = distance.topk(min(count, len(codes) - 1), largest=False).indices.tolist()
    return [[(other, float(distance[i, other]), float(angle[i, other])) for other in row] for i, row in enumerate(nearest)]


def interpolate(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return `steps` codes on the straight line between two, both ends among them, `(steps, z_dim)`."""
    if steps < 2:
        raise UsageError(f"{steps} steps between two codes", expected="2 or more")
    share = torch.linspace(0, 1, steps, dtype=start.dtype, device=start.device)[:, None]
    return start + share * (end - start)


@torch.inference_mode()
def code_logits(hypernet: Hypernet, encoder: nn.Module | None, codes: Tensor, images: Tensor) -> Tensor:
    """Return logits `(B, K, H, W)` of every code for images `(B, 3, H, W)`, with the norms' statistics of these images.

    The encoder's stored statistics are used and left alone if it is in evaluation mode.
    """
    shared = _known(encoder, images)
    return torch.cat([run_stages(images, hypernet(group), shared, dropout=False).logits for group in _groups(codes)], 1)


@torch.inference_mode()
def claims(hypernet: Hypernet, encoder: nn.Module | None, codes: Tensor, objects: Sequence[Samples]) -> Tensor:
    """Return the mean Dice of every code on every object's images, `(K, objects)`: who would be taken for whom.

    Every object is encoded once and every code's weights are generated once.
    """
    known = [_known(encoder, samples.images) for samples in objects]
    rows = []
    for group in _groups(codes):
        weights = hypernet(group)
        columns = []
        for samples, shared in zip(objects, known, strict=True):
            masks = run_stages(samples.images, weights, shared, dropout=False).logits > 0
            columns.append(torch.stack([dice(mask.float(), samples.masks).mean() for mask in torch.split(masks, 1, 1)]))
        rows.append(torch.stack(columns, 1))
    return torch.cat(rows)


def _groups(codes: Tensor) -> list[Tensor]:
    """Return the codes of each pass, a single one without its first axis."""
    return [group if len(group) > 1 else group[0] for group in torch.split(codes, CODES_AT_ONCE)]


def _known(encoder: nn.Module | None, images: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]] | None:
    """Return a function in the encoder's place that gives the images' features, computed once for all codes."""
    if encoder is None:
        return None
    features = encoder(images)
    return lambda _: features
