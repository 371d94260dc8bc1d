"""One clip through the network as training runs it: prompts, corrections, memories, all with gradients (spec 4.4)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from sam2_rcms.model import SAM2
from sam2_rcms.model.network import SPATIAL_MEMORIES, HeadOutput, ImageFeatures
from sam2_rcms.train.config import PromptConfig
from sam2_rcms.train.dataset import ClipBatch
from sam2_rcms.train.losses import StepPrediction
from sam2_rcms.train.prompts import Clicks, PromptPlan, draw_correction, draw_plan

POINTERS = 16
"""Frames whose object pointers are read at most, this one counted."""
MULTIMASK_POINTS = 1
"""Most points for which three masks are predicted."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a processed frame leaves: spatial memory `(N, 64, h, w)` and object pointer `(N, 256)`."""

    spatial: Tensor
    pointer: Tensor


@dataclass(slots=True)
class ClipMemories:
    """Memories of a clip by frame, conditioning frames apart."""

    conditioning: dict[int, Memory] = field(default_factory=dict)
    others: dict[int, Memory] = field(default_factory=dict)

    def spatial(self, frame: int) -> tuple[list[Tensor], list[int]]:
        """Return the spatial memories that `frame` reads and their temporal codes: all conditioning ones, six before it."""
        maps = [memory.spatial for memory in self.conditioning.values()]
        codes = [SPATIAL_MEMORIES - 1] * len(maps)
        for before in range(SPATIAL_MEMORIES - 1, 0, -1):
            memory = self.others.get(frame - before)
            if memory is not None:
                maps.append(memory.spatial)
                codes.append(before - 1)
        return maps, codes

    def pointers(self, frame: int, reach: int) -> tuple[Tensor, list[int]]:
        """Return the pointers `(N, P, 256)` that `frame` reads and the frames from each to it, negative for later ones."""
        found = [(memory.pointer, frame - at) for at, memory in self.conditioning.items()]
        found += [(self.others[frame - d].pointer, d) for d in range(1, reach) if frame - d in self.others]
        return torch.stack([pointer for pointer, _ in found], 1), [distance for _, distance in found]


@dataclass(frozen=True, slots=True)
class ClipOutput:
    """What the network said about a clip, in time order.

    Args:
        steps: prediction steps of each frame: one, and one for each correction click.
        low: best logits of each frame's last step `(N, 1, S / 4, S / 4)`.
        clicks: all clicks of each frame, empty without.
        plan: what was prompted.
    """

    steps: list[list[StepPrediction]]
    low: list[Tensor]
    clicks: list[Clicks | None]
    plan: PromptPlan

    def detached(self) -> ClipOutput:
        """Return the last step of each frame without its gradient."""
        last = [frame[-1] for frame in self.steps]
        steps = [[StepPrediction(one.masks.detach(), one.ious.detach(), one.score.detach())] for one in last]
        return ClipOutput(steps, [low.detach() for low in self.low], self.clicks, self.plan)


class ClipPass(nn.Module):
    """The network's predictions for a batch of clips; a module of its own, so that several ranks can wrap the call.

    Args:
        network: the weights.
        prompts: how prompts are simulated.
        scale: of masks going into memory, after their sigmoid.
        bias: added after that.
    """

    def __init__(self, network: SAM2, prompts: PromptConfig, *, scale: float, bias: float) -> None:
        super().__init__()
        self.network, self.prompts, self.scale, self.bias = network, prompts, scale, bias

    def forward(self, batch: ClipBatch, rng: np.random.Generator) -> ClipOutput:
        """Return the predictions for all objects.

        Args:
            batch: on the network's device.
            rng: of the decisions; the same on all ranks.
        """
        frames = batch.images.shape[1]
        encoded = self.network.forward_image(batch.images.flatten(0, 1))
        plan = draw_plan(batch.masks, self.prompts, rng)
        memories = ClipMemories()
        steps: dict[int, list[StepPrediction]] = {}
        low: dict[int, Tensor] = {}
        clicks: dict[int, Clicks | None] = {}
        order = plan.order(frames)
        for t in order:
            image = _of_objects(encoded, batch.video, t, frames)
            outputs, clicks[t] = self._frame(t, image, batch.masks[t], plan, memories, frames, rng)
            last = outputs[-1]
            assert last.high is not None
            steps[t], low[t] = [_prediction(output) for output in outputs], last.low
            if t != order[-1]:  # nothing reads the last one's
                spatial = self.network.encode_memory(image.stride16, last.high, last.score, scale=self.scale, bias=self.bias)
                corrected = t in plan.correct and self.prompts.add_all_frames_to_correct_as_cond
                kept = memories.conditioning if t in plan.conditioning or corrected else memories.others
                kept[t] = Memory(spatial, last.pointer)
        times = range(frames)
        return ClipOutput([steps[t] for t in times], [low[t] for t in times], [clicks[t] for t in times], plan)

    def _frame(
        self,
        t: int,
        image: ImageFeatures,
        truth: Tensor,
        plan: PromptPlan,
        memories: ClipMemories,
        frames: int,
        rng: np.random.Generator,
    ) -> tuple[list[HeadOutput], Clicks | None]:
        """Return the outputs of all prediction steps of a frame, and all clicks."""
        network = self.network
        if t in plan.conditioning and not plan.use_points:
            return [network.mask_as_output(image, truth[:, None].float())], None
        if t in plan.conditioning:
            features = network.without_memory(image.stride16)
        else:
            features = self._with_memory(t, image.stride16, memories, frames)
        clicks = plan.first_clicks.get(t)
        outputs = [self._heads(features, image, clicks, None)]
        if t in plan.correct:
            for _ in range(self.prompts.num_correction_pt_per_frame):
                before = outputs[-1]
                assert before.high is not None
                click = draw_correction(truth, before.high[:, 0] > 0, self.prompts, rng)
                clicks = click if clicks is None else clicks.and_also(click)
                outputs.append(self._heads(features, image, clicks, before.low))
        return outputs, clicks

    def _with_memory(self, t: int, stride16: Tensor, memories: ClipMemories, frames: int) -> Tensor:
        maps, codes = memories.spatial(t)
        reach = min(frames, POINTERS)
        pointers, distances = memories.pointers(t, reach)
        return self.network.read_memory(
            stride16,
            maps,
            codes,
            pointers,
            torch.tensor(distances, device=stride16.device),
            span=max(reach - 1, 1),
        )

    def _heads(self, features: Tensor, image: ImageFeatures, clicks: Clicks | None, mask: Tensor | None) -> HeadOutput:
        count = 0 if clicks is None else clicks.points.shape[1]
        return self.network.heads(
            features,
            image,
            points=None if clicks is None else clicks.points,
            labels=None if clicks is None else clicks.labels,
            mask=mask,
            multimask=count <= MULTIMASK_POINTS,
            at_image_size="all",
        )


def _of_objects(encoded: ImageFeatures, video: Tensor, t: int, frames: int) -> ImageFeatures:
    """Return the features of frame `t`, one row for each object."""
    rows = video * frames + t
    return ImageFeatures(encoded.stride16[rows], encoded.high0[rows], encoded.high1[rows])


def _prediction(output: HeadOutput) -> StepPrediction:
    assert output.high_multi is not None
    return StepPrediction(output.high_multi, output.ious, output.score)


def prepare_for_training(network: SAM2, *, freeze_image_encoder: bool, activation_checkpointing: bool) -> None:
    """Set what of the network learns and what is computed twice to save memory.

    A frozen image encoder is put in evaluation mode, so that its stochastic depth rests too; its 1 x 1 convolutions for the
    decoder, which belong to the decoder, still learn.
    """
    network.train()
    network.requires_grad_(True)
    if freeze_image_encoder:
        network.image_encoder.requires_grad_(False)
        network.image_encoder.eval()
    network.image_encoder.trunk.checkpointing = activation_checkpointing
    network.memory_attention.checkpointing = activation_checkpointing
