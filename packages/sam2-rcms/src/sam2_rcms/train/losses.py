"""The losses of a clip: focal and dice on the best mask, the predicted IoU, and whether the object is there (spec 4.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2_rcms.train.config import LossConfig

NAMES = ("loss_mask", "loss_dice", "loss_iou", "loss_class")


@dataclass(frozen=True, slots=True)
class StepPrediction:
    """What the heads said in one prediction step of one frame.

    Args:
        masks: logits `(N, M, S, S)`, M = 3 or 1.
        ious: `(N, M)`, 0-1.
        score: object score logits `(N, 1)`.
    """

    masks: Tensor
    ious: Tensor
    score: Tensor


def clip_losses(
    frames: Sequence[Sequence[StepPrediction]], truth: Tensor, config: LossConfig, *, objects: float
) -> dict[str, Tensor]:
    """Return the four losses, summed over objects, steps and frames, and their weighted sum `core_loss`.

    Args:
        frames: prediction steps of each frame, in time order.
        truth: bool `(T, N, S, S)`.
        config: weights and forms.
        objects: number that losses are divided by: objects of the batch, averaged over ranks, at least 1.
    """
    sums = dict.fromkeys(NAMES, truth.new_zeros((), dtype=torch.float32))
    for steps, masks in zip(frames, truth, strict=True):
        target = masks[:, None].float()
        for step in steps:
            for name, value in step_losses(step, target, config, objects=objects).items():
                sums[name] = sums[name] + value
    weights: Mapping[str, float] = {name: getattr(config, name) for name in NAMES}
    return {**sums, "core_loss": sum((weights[name] * sums[name] for name in NAMES), truth.new_zeros((), dtype=torch.float32))}


def step_losses(step: StepPrediction, target: Tensor, config: LossConfig, *, objects: float) -> dict[str, Tensor]:
    """Return the four losses of one prediction step, summed over objects.

    Args:
        step: predictions; computed in float32 whatever their type.
        target: float `(N, 1, S, S)` of 0 and 1.
        config: weights and forms.
        objects: divisor.
    """
    logits, ious = step.masks.float(), step.ious.float()
    target_all = target.expand_as(logits)
    if config.point_samples is None:
        focal = focal_cost(logits, target_all, alpha=config.focal_alpha, gamma=config.focal_gamma).flatten(2).mean(-1)
        dice = dice_cost(logits, target_all)
    else:
        at, there = sample_points(logits, target_all, config)
        focal = F.binary_cross_entropy_with_logits(at, there, reduction="none").mean(-1)
        dice = dice_cost(at, there)
    focal, dice = focal / objects, dice / objects
    iou = iou_cost(logits, target_all, ious, l1=config.iou_use_l1_loss) / objects
    present = (target[:, 0] > 0).flatten(1).any(1, keepdim=True).float()
    if config.pred_obj_scores:
        score = focal_cost(step.score.float(), present, alpha=config.focal_alpha_obj_score, gamma=config.focal_gamma_obj_score)
        class_loss = score.mean(-1).sum() / objects
    else:
        class_loss, present = logits.new_zeros(()), torch.ones_like(present)
    if logits.shape[1] > 1:
        best = (config.loss_mask * focal + config.loss_dice * dice).argmin(1, keepdim=True)
        focal, dice = focal.gather(1, best), dice.gather(1, best)
        iou = iou.mean(1, keepdim=True) if config.supervise_all_iou else iou.gather(1, best)
    return {
        "loss_mask": (focal * present).sum(),
        "loss_dice": (dice * present).sum(),
        "loss_iou": (iou * present).sum(),
        "loss_class": class_loss,
    }


def focal_cost(logits: Tensor, target: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Return the focal cost of each value; a negative `alpha` weights both classes alike, `gamma` 0 is cross-entropy."""
    cost = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    if gamma:
        cost = cost * (1 - (probability * target + (1 - probability) * (1 - target))) ** gamma
    return cost * (alpha * target + (1 - alpha) * (1 - target)) if alpha >= 0 else cost


def dice_cost(logits: Tensor, target: Tensor) -> Tensor:
    """Return `1 - (2 * sum(p * t) + 1) / (sum(p) + sum(t) + 1)` over all but the first two dimensions: `(N, M)`."""
    probability, truth = logits.sigmoid().flatten(2), target.flatten(2)
    return 1 - (2 * (probability * truth).sum(-1) + 1) / (probability.sum(-1) + truth.sum(-1) + 1)


def iou_cost(logits: Tensor, target: Tensor, ious: Tensor, *, l1: bool) -> Tensor:
    """Return the distance between predicted IoUs and those of the masks above 0, `(N, M)`; an empty union counts 1."""
    found, truth = logits.flatten(2) > 0, target.flatten(2) > 0
    actual = (found & truth).sum(-1).float() / (found | truth).sum(-1).float().clamp(min=1)
    return F.l1_loss(ious, actual, reduction="none") if l1 else F.mse_loss(ious, actual, reduction="none")


def sample_points(logits: Tensor, target: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Return logits and truth at drawn points, `(N, M, P)` each: the most uncertain of many candidates, and uniform ones.

    The same points serve both losses. Needs `config.point_samples`.
    """
    assert config.point_samples is not None
    count, masks = logits.shape[:2]
    total = config.point_samples
    candidates = torch.rand(count * masks, int(total * config.oversample_ratio), 2, device=logits.device)
    with torch.no_grad():
        uncertainty = -_at(logits, candidates).abs()
        kept = int(total * config.importance_sample_ratio)
        index = uncertainty.topk(kept, dim=1).indices
    chosen = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    points = torch.cat((chosen, torch.rand(count * masks, total - kept, 2, device=logits.device)), 1)
    shape = (count, masks, total)
    with torch.no_grad():
        there = _at(target, points).view(shape)
    return _at(logits, points).view(shape), there


def _at(maps: Tensor, points: Tensor) -> Tensor:
    """Return bilinear values of `(N, M, H, W)` at points `(N * M, P, 2)` in 0-1: `(N * M, P)`."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.grid_sample(flat, 2 * points[:, None] - 1, align_corners=False)[:, 0, 0]
