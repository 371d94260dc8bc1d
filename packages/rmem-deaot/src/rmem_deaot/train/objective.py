"""One clip through the network, frame by frame as at inference, and its loss (spec section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rmem_deaot.model.network import AOTNetwork, Features, mask_unused
from rmem_deaot.train.bank import BankLimits, TrainingMemory
from rmem_deaot.train.samples import ClipBatch
from vos_core.training.losses import hardest_cross_entropy, soft_jaccard
from vos_core.types import VOID


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is descended, and how memory is written while training.

    Args:
        total_steps: of the stage.
        gap: frames between two frames of the long-term bank.
        own_masks: in the second half of the steps remember the network's own masks, cut off from the identity bank.
        soft_masks: remember the probabilities of own masks instead of the likeliest object of each pixel.
        ignore: feed ignored pixels of true masks to the identity bank (VOST; the reference's never).
        ce_weight: of the cross-entropy.
        jaccard_weight: of the soft Jaccard loss.
        kept: share of the hardest pixels that the cross-entropy keeps in the end.
        mining_ratio: share of the steps over which it falls to that.
        aux_weight: of the reference frame's loss at the start.
        aux_ratio: share of the steps over which that weight falls to 0.
        limits: restrict the bank; None = keep all frames.
    """

    total_steps: int
    gap: int = 2
    own_masks: bool = True
    soft_masks: bool = False
    ignore: bool = False
    ce_weight: float = 0.5
    jaccard_weight: float = 0.5
    kept: float = 0.15
    mining_ratio: float = 0.5
    aux_weight: float = 1.0
    aux_ratio: float = 1.0
    limits: BankLimits | None = None

    def uses_own_masks(self, step: int) -> bool:
        """Return whether the network's own masks are remembered at `step`."""
        return self.own_masks and step >= int(0.5 * self.total_steps)

    def hardest(self, step: int) -> float:
        """Return the share of pixels that count in the cross-entropy at `step`.

        >>> round(Objective(total_steps=100).hardest(25), 3)
        0.575
        """
        ratio = min(1.0, step / (self.mining_ratio * self.total_steps + 1e-5))
        return ratio * self.kept + 1 - ratio

    def aux(self, step: int) -> float:
        """Return the weight of the reference frame's loss at `step`."""
        end = self.total_steps * self.aux_ratio + 1e-5
        return self.aux_weight * max(end - step, 0.0) / end

    def frame_loss(self, logits: Tensor, labels: Tensor, objects: Sequence[int], step: int) -> Tensor:
        """Return the loss of a frame, `(B,)`, each sample on its own channels.

        Args:
            logits: at the labels' size, `(B, 11, H, W)`.
            labels: int64 `(B, H, W)` up to the number of objects; 255 is ignored.
            objects: number of objects of each sample.
            step: of the stage.
        """
        losses = []
        for one, target, count in zip(logits, labels, objects, strict=True):
            cut, target = one[None, : count + 1].float(), target[None]
            entropy = hardest_cross_entropy(cut, target, fraction=self.hardest(step), ignore=VOID)
            losses.append(self.ce_weight * entropy + self.jaccard_weight * soft_jaccard(cut, target, ignore=VOID))
        return torch.cat(losses)


class ClipLoss(NamedTuple):
    """What a clip costs.

    Args:
        loss: scalar.
        frame_losses: `(L, B)`, without gradient; row 0 is the reference's own reading, 0 once it no longer counts.
        logits: `(L, B, 11, H / 4, W / 4)`, without gradient, identities in the order of the labels, unused ones far below 0.
        bank: frames in the long-term bank at the end, of each clip.
    """

    loss: Tensor
    frame_losses: Tensor
    logits: Tensor
    bank: tuple[tuple[int, ...], ...]


class ClipPass(nn.Module):
    """The network's masks of a batch of clips and their loss; a module around it, so that several ranks can wrap the call.

    Args:
        network: the weights.
        objective: see there.
    """

    def __init__(self, network: AOTNetwork, objective: Objective) -> None:
        super().__init__()
        self.network, self.objective = network, objective

    def forward(self, batch: ClipBatch, step: int) -> ClipLoss:
        """Return the loss of a batch on the network's device at a step of the stage."""
        frames = self._features(batch)
        labels = _known(batch)
        own = self.objective.uses_own_masks(step)
        memory = TrainingMemory(self.network, batch=len(batch.objects), limits=self.objective.limits)

        id_emb = self._identity(labels[0], batch.channels, cut_off=own)
        first = self.network.propagate(frames[0].projected, long=memory, id_emb=id_emb)
        short = self.network.write(first.pending, id_emb)
        weight = self.objective.aux(step)
        with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0):
            logits = [self._logits(first.maps, frames[0], batch)]
            losses = [self._frame_loss(logits[0], labels[0], batch.objects, step)]
        memory.put(0, short, logits[0], frames[0].size)
        last = 0
        for t in range(1, len(frames)):
            found = self.network.propagate(frames[t].projected, long=memory, short=short)
            logits.append(self._logits(found.maps, frames[t], batch))
            losses.append(self._frame_loss(logits[t], labels[t], batch.objects, step))
            if own and self.objective.soft_masks:
                id_emb = self._soft_identity(logits[t], labels.shape[-2:], batch.channels)
            else:
                mask = self.masks(logits[t], labels.shape[-2:]) if own else labels[t]
                id_emb = self._identity(mask, batch.channels, cut_off=own, ignore=not own)
            short = self.network.write(found.pending, id_emb)
            if t - last >= self.objective.gap:
                memory.put(t, short, logits[t], frames[t].size)
                last = t
        rows = torch.stack(losses)
        loss = rows[1:].mean() + (weight * rows[0].mean() if weight > 0 else 0.0)
        return ClipLoss(loss, rows.detach(), torch.stack([one.detach() for one in logits]), memory.held)

    def masks(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Return label maps `(B, H, W)` of logits at a quarter of the size."""
        return self._up(logits.detach(), size).argmax(1)

    def _features(self, batch: ClipBatch) -> list[Features]:
        """Return the features of each frame; all are encoded at once."""
        images = batch.normalised.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        whole = self.network.encode_image(images)
        return [Features(*parts) for parts in zip(*(part.chunk(len(batch.images)) for part in whole), strict=True)]

    def _identity(self, labels: Tensor, channels: Tensor, *, cut_off: bool, ignore: bool = False) -> Tensor:
        """Return the identity embedding of label maps whose objects are written to `channels`."""
        wide = F.pad(channels, (0, VOID + 1 - channels.shape[1]), value=-1)  # no channel for what is no object
        wide[:, VOID] = VOID
        placed = torch.gather(wide, 1, labels.flatten(1)).view_as(labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not cut_off):
            return self.network.encode_identity(self.network.one_hot(placed, ignore=ignore and self.objective.ignore))

    @torch.no_grad()
    def _soft_identity(self, logits: Tensor, size: Sequence[int], channels: Tensor) -> Tensor:
        """Return the identity embedding of the probabilities of own masks, without gradient as that of own label maps."""
        probs = self._up(logits, size).softmax(1)
        placed = probs.new_zeros(len(probs), self.network.config.id_channels, *probs.shape[2:])
        placed.scatter_(1, channels[:, :, None, None].expand_as(probs), probs)
        return self.network.encode_identity(placed.to(self.network.patch_wise_id_bank.weight.dtype))

    def _logits(self, maps: Tensor, features: Features, batch: ClipBatch) -> Tensor:
        found = self.network.decode(maps, features)
        placed = torch.gather(found, 1, batch.channels[:, :, None, None].expand(-1, -1, *found.shape[2:]))
        return mask_unused(placed, batch.objects)

    def _frame_loss(self, logits: Tensor, labels: Tensor, objects: Sequence[int], step: int) -> Tensor:
        def compute(small: Tensor) -> Tensor:
            return self.objective.frame_loss(self._up(small, labels.shape[-2:]), labels, objects, step)

        # Full-size maps of all frames would be most of the memory; they are made again in the backward pass.
        if not torch.is_grad_enabled():
            return compute(logits)
        value: Tensor = checkpoint(compute, logits, use_reentrant=False, preserve_rng_state=False)
        return value

    def _up(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        align = self.network.config.align_corners
        return F.interpolate(logits.float(), size=tuple(size), mode="bilinear", align_corners=align)


def _known(batch: ClipBatch) -> Tensor:
    """Return int64 labels `(L, B, H, W)`; objects that came in after the reference have no channel and are background."""
    labels = batch.labels.long()
    count = torch.tensor(batch.objects, device=labels.device)[None, :, None, None]
    return labels.masked_fill((labels > count) & (labels != VOID), 0)
