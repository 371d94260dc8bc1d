"""The loss of one batch of frame pairs, with random numbers that belong to the sample, not to the process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsp_pretrain.data.pairs import MEAN, STD, normalise
from rsp_pretrain.model import RSP, Draws, Prediction
from rsp_pretrain.model.network import patchify, unpatchify
from vos_core.training.batches import DrawDataset
from vos_core.training.logging import PictureGrid, picture_grid
from vos_core.training.loop import StepLoss


@dataclass(frozen=True, slots=True)
class PairBatch:
    """A batch of frame pairs.

    Args:
        present, future: uint8 `(B, R, 3, S, S)`, R pairs of each of B videos.
        seeds: one per video.
    """

    present: Tensor
    future: Tensor
    seeds: tuple[int, ...]

    def pin_memory(self) -> PairBatch:
        """Return the batch in page-locked memory; the data loader calls it."""
        return PairBatch(self.present.pin_memory(), self.future.pin_memory(), self.seeds)


class SeededPairs:
    """Pairs with a seed for everything else that is random about them, so that nothing depends on ranks or workers.

    Args:
        pairs: yields (present, future), uint8 `(R, 3, S, S)` each.
    """

    def __init__(self, pairs: DrawDataset) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, int]:
        """Return present and future frames and a seed."""
        present, future = self.pairs.draw(index, epoch=epoch, rng=rng)
        return present, future, int(rng.integers(2**62))


def collate(items: Sequence[tuple[Tensor, Tensor, int]]) -> PairBatch:
    """Return samples as a batch."""
    present, future, seeds = zip(*items, strict=True)
    return PairBatch(torch.stack(present), torch.stack(future), tuple(seeds))


def draws_of(network: RSP, images: Tensor, seeds: Sequence[int]) -> Draws:
    """Return the random numbers of a batch `(B * R, 3, S, S)`, those of each video from its own seed."""
    parts = []
    for chunk, seed in zip(images.chunk(len(seeds)), seeds, strict=True):
        parts.append(network.draw(chunk, generator=torch.Generator(images.device).manual_seed(seed)))
    return Draws(*(torch.cat([getattr(part, name) for part in parts]) for name in ("noise", "post", "prior", "mask_noise")))


class PairLoss:
    """The recipe: from a batch to the loss and the figures that are logged.

    Args:
        network: unwrapped, for its sizes and random numbers.
        device: of the computation.
        prior_every: steps between predictions from the prior, which only the log shows; their figure stays until the next.
    """

    def __init__(self, network: RSP, device: torch.device, *, prior_every: int = 20) -> None:
        self.network, self.device, self.prior_every = network, device, prior_every
        self._prior: Tensor | None = None

    def __call__(self, model: nn.Module, batch: PairBatch, step: int) -> StepLoss:
        """Return loss and figures of a batch; `model` is the network, maybe wrapped for several ranks."""
        present, future = (
            normalise(part.to(self.device, non_blocking=True).flatten(0, 1)) for part in (batch.present, batch.future)
        )
        draws = draws_of(self.network, future, batch.seeds)
        with_prior = self._prior is None or step % self.prior_every == 0
        out: Prediction = model(present, future, draws, with_prior=with_prior)
        if out.loss_prior is not None:
            self._prior = out.loss_prior.detach()
        assert self._prior is not None
        values: dict[str, float | Tensor] = {
            "loss_post": out.loss_post.detach(),
            "loss_prior": self._prior,
            "loss_kl": out.kl_term.detach(),
            "kl": out.kl_value.detach(),
            "loss_mae": out.loss_mae.detach(),
        }
        return StepLoss(out.loss, values, lambda: {"pairs": reconstructions(self.network, present, future, out)})


@torch.no_grad()
def reconstructions(network: RSP, present: Tensor, future: Tensor, out: Prediction, *, rows: int = 4) -> PictureGrid:
    """Return a grid of pictures, uint8 RGB: present, future, future as predicted, future as masked, as reconstructed.

    Under `norm_pix_loss` predicted patches get the true patches' mean and deviation back.

    Args:
        network: that made `out`.
        present, future: normalised, `(N, 3, S, S)`.
        out: of these.
        rows: samples to show.
    """
    side = network.image_size // network.patch
    true = patchify(future[:rows].float(), network.patch)

    def picture(patches: Tensor) -> Tensor:
        if network.objective.norm_pix_loss:
            variance, mean = torch.var_mean(true, 2, correction=1, keepdim=True)
            patches = patches * (variance + 1e-6).sqrt() + mean
        return unpatchify(patches, network.patch, (side, side))

    hidden = out.mask[:rows].unsqueeze(2).bool()
    masked = unpatchify(true.masked_fill(hidden, 0.0), network.patch, (side, side))
    restored = picture(out.mae[:rows].float())
    shown = unpatchify(torch.where(hidden, patchify(restored, network.patch), true), network.patch, (side, side))
    columns = [present[:rows].float(), future[:rows].float(), picture(out.post[:rows].float()), masked, shown]
    return picture_grid([[to_rgb(column[row]) for column in columns] for row in range(len(true))])


def to_rgb(image: Tensor) -> Any:
    """Return a normalised image `(3, H, W)` as uint8 `(H, W, 3)`."""
    mean, std = (torch.tensor(values, device=image.device).view(3, 1, 1) for values in (MEAN, STD))
    return ((image.float() * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
