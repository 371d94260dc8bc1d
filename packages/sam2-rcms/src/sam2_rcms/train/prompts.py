"""Simulated user input: which frames get prompts and corrections, and where points and boxes fall (spec 4.4).

Decisions come from a NumPy generator that is the same on all ranks, places from torch's global generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam2_rcms.train.config import PromptConfig

BOX_NOISE = 0.1
"""Largest shift of a box's side, as a share of its length."""
BOX_NOISE_MOST = 20.0
"""The same in pixels."""


@dataclass(frozen=True, slots=True)
class Clicks:
    """Points of all objects; a box is two of them.

    Args:
        points: float32 `(N, P, 2)`, x then y in pixels of the model's frame.
        labels: int32 `(N, P)`: 0 background, 1 object, 2 and 3 a box's first and last corner.
    """

    points: Tensor
    labels: Tensor

    def and_also(self, other: Clicks) -> Clicks:
        """Return these clicks followed by others."""
        return Clicks(torch.cat((self.points, other.points), 1), torch.cat((self.labels, other.labels), 1))


@dataclass(frozen=True, slots=True)
class PromptPlan:
    """What is prompted in one clip.

    Args:
        use_points: prompts are points and boxes; else masks.
        conditioning: frames prompted at the start, in the order they are processed.
        correct: frames that get correction clicks.
        first_clicks: of the conditioning frames, where points are used.
    """

    use_points: bool
    conditioning: tuple[int, ...]
    correct: frozenset[int]
    first_clicks: dict[int, Clicks]

    def order(self, frames: int) -> list[int]:
        """Return all frames as they are processed: conditioning frames first, the others in time order."""
        return [*self.conditioning, *(t for t in range(frames) if t not in self.conditioning)]


def draw_plan(masks: Tensor, config: PromptConfig, rng: np.random.Generator) -> PromptPlan:
    """Return the plan of one clip.

    Args:
        masks: bool `(T, N, H, W)` of the truth.
        config: probabilities and numbers.
        rng: of the decisions.
    """
    frames = masks.shape[0]
    single = frames == 1  # an image: one prompt by points, corrected
    use_points = bool(rng.random() < (1.0 if single else config.prob_to_use_pt_input_for_train))
    conditions = 1 if single else min(config.num_init_cond_frames_for_train, frames)
    corrections = 1 if single else min(config.num_frames_to_correct_for_train, frames)
    if config.rand_init_cond_frames_for_train and conditions > 1:
        conditions = int(rng.integers(1, conditions, endpoint=True))
    if use_points and config.rand_frames_to_correct_for_train and corrections > conditions:
        corrections = int(rng.integers(conditions, corrections, endpoint=True))
    conditioning = [0]
    if conditions > 1:
        conditioning += [int(t) for t in rng.choice(range(1, frames), conditions - 1, replace=False)]
    first_clicks: dict[int, Clicks] = {}
    if use_points:
        for t in conditioning:
            boxed = rng.random() < config.prob_to_use_box_input_for_train
            first_clicks[t] = noisy_box(masks[t]) if boxed else error_click(masks[t], None)
    correct: set[int] = set()
    if use_points:
        correct = set(conditioning)
        if corrections > conditions:
            others = [t for t in range(frames) if t not in conditioning]
            correct |= {int(t) for t in rng.choice(others, corrections - conditions, replace=False)}
    return PromptPlan(use_points, tuple(conditioning), frozenset(correct), first_clicks)


def draw_correction(truth: Tensor, predicted: Tensor, config: PromptConfig, rng: np.random.Generator) -> Clicks:
    """Return one more click for each object: in the error region, or sometimes as if nothing had been predicted.

    Args:
        truth: bool `(N, H, W)`.
        predicted: bool `(N, H, W)`.
        config: share of clicks that ignore the prediction.
        rng: of that decision.
    """
    share = config.prob_to_sample_from_gt_for_train
    ignore = share > 0 and bool(rng.random() < share)
    return error_click(truth, None if ignore else predicted)


def noisy_box(masks: Tensor) -> Clicks:
    """Return each object's box as two points with labels 2 and 3, every side moved by up to a tenth of its length.

    An empty mask gives a box at the frame's far corner.

    Args:
        masks: bool `(N, H, W)`.
    """
    boxes = boxes_of(masks)
    height, width = masks.shape[-2:]
    reach = (boxes[..., 2:] - boxes[..., :2]) * BOX_NOISE
    reach = reach.clamp(max=BOX_NOISE_MOST).repeat(1, 1, 2)
    noise = 2 * torch.rand(len(masks), 1, 4, device=masks.device) - 1
    most = torch.tensor([width, height, width, height], device=masks.device) - 1
    corners = torch.minimum((boxes + noise * reach).clamp(min=0), most.float())
    labels = torch.tensor([2, 3], dtype=torch.int32, device=masks.device).expand(len(masks), 2)
    return Clicks(corners.reshape(len(masks), 2, 2), labels)


def boxes_of(masks: Tensor) -> Tensor:
    """Return the first and last pixel indices of masks, float32 `(N, 1, 4)` x0, y0, x1, y1; an empty one gives W, H, -1, -1.

    Args:
        masks: bool `(N, H, W)`.
    """
    height, width = masks.shape[-2:]
    sides = []
    for axis, length in ((-2, width), (-1, height)):
        present = masks.any(axis)
        index = torch.arange(length, device=masks.device)
        sides.append((torch.where(present, index, length).amin(-1), torch.where(present, index, -1).amax(-1)))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), -1)[:, None].float()


def error_click(truth: Tensor, predicted: Tensor | None) -> Clicks:
    """Return one click for each object, uniform over where truth and prediction differ.

    Where they agree everywhere the click lies on the background.

    Args:
        truth: bool `(N, H, W)`.
        predicted: likewise; None = nothing.
    """
    if predicted is None:
        predicted = torch.zeros_like(truth)
    count, _, width = truth.shape
    spurious, missed = ~truth & predicted, truth & ~predicted
    agreeing = (truth == predicted).flatten(1).all(1)[:, None, None]
    noise = torch.rand(count, 1, *truth.shape[1:], 2, device=truth.device)
    noise[..., 0] *= (spurious | (agreeing & ~truth))[:, None]
    noise[..., 1] *= missed[:, None]
    index = noise.flatten(1).argmax(1)
    label, index = index % 2, index // 2
    points = torch.stack((index % width, index // width), -1)[:, None].float()
    return Clicks(points, label[:, None].to(torch.int32))
