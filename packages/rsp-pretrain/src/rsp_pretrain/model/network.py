"""RSP: predict a noised future frame from the present one through a stochastic variable, and reconstruct it when masked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rsp_pretrain.config import Architecture, Objective
from rsp_pretrain.model.decoder import DecoderBlock, standardised
from rsp_pretrain.model.latent import Latent, balanced_kl, draw_latent, make_latent
from rsp_pretrain.model.position import sincos_table
from rsp_pretrain.model.vit import NORM_EPS, Encoder, initialise
from vos_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Draws:
    """Everything random in one pass; made by `RSP.draw`, or given for a repeatable one.

    Args:
        noise: standard normal, of the images' shape.
        post, prior: what a latent's `sample` takes: `(N, stoch)` uniform numbers or classes; normal numbers for Gaussians.
        mask_noise: uniform `(N, L)`; the patches with the smallest numbers stay visible.
    """

    noise: Tensor
    post: Tensor
    prior: Tensor
    mask_noise: Tensor


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one pass computes. Losses are scalars; predictions are patches `(N, L, patch^2 * 3)` in (row, column, channel) order.

    Args:
        loss: what is descended: `loss_post + kl_scale * kl_term + loss_mae`.
        loss_post: mean squared error of the future frame predicted from the posterior sample.
        loss_prior: the same from the prior sample, never descended; None if not asked for.
        kl_term: `max(kl_value, kl_freebit)`.
        kl_value: balanced KL in nats.
        loss_mae: mean squared error over the hidden patches.
        post, prior, mae: predictions; prior is None if not asked for.
        source, target, visible: encodings of the present frame, the noised future one and the visible patches of the clean one.
        post_logits, prior_logits: `(N, stoch * discrete)`, or means and raw deviations.
        mask: `(N, L)`, 1 = hidden.
        restore: `(N, L)`, place of each patch in the shuffled order.
    """

    loss: Tensor
    loss_post: Tensor
    loss_prior: Tensor | None
    kl_term: Tensor
    kl_value: Tensor
    loss_mae: Tensor
    post: Tensor
    prior: Tensor | None
    mae: Tensor
    source: Tensor
    target: Tensor
    visible: Tensor
    post_logits: Tensor
    prior_logits: Tensor
    mask: Tensor
    restore: Tensor


class RSP(Encoder):
    """The whole pre-training network under its checkpoint names, in the order of its checkpoints.

    Args:
        architecture: sizes.
        objective: losses and latents.
    """

    def __init__(self, architecture: Architecture, objective: Objective | None = None) -> None:
        size = architecture
        super().__init__(patch=size.patch, dim=size.dim, depth=size.depth, heads=size.heads, image_size=size.image_size)
        self.architecture = architecture
        self.objective = objective = objective or Objective()
        dim, inner, side = size.dim, size.decoder_dim, size.image_size // size.patch
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.decoder_pos_embed = nn.Parameter(sincos_table(inner, side), requires_grad=False)
        self.to_posterior = _head(2 * dim, 2 * dim, objective.logits_size)
        self.to_prior = _head(dim, 2 * dim, objective.logits_size)
        self.decoder_embed_mae = nn.Linear(dim, inner)
        self.decoder_embed_deter = nn.Linear(dim, inner)
        self.decoder_embed_stoch = nn.Linear(objective.latent_size, inner)
        self.decoder_blocks = nn.ModuleList(DecoderBlock(inner, size.decoder_heads) for _ in range(size.decoder_depth))
        self.decoder_norm = nn.LayerNorm(inner, eps=NORM_EPS)
        self.decoder_pred = nn.Linear(inner, size.patch**2 * 3)
        initialise(self)

    def draw(self, images: Tensor, *, generator: torch.Generator | None = None) -> Draws:
        """Return the random numbers of one pass, drawn in the published order."""
        n, device = len(images), images.device
        latent = {"stoch": self.objective.stoch, "discrete": self.objective.discrete, "device": device, "generator": generator}
        return Draws(
            noise=torch.randn(images.shape, device=device, generator=generator),
            post=draw_latent(n, **latent),  # type: ignore[arg-type]
            prior=draw_latent(n, **latent),  # type: ignore[arg-type]
            mask_noise=torch.rand(n, self.patches, device=device, generator=generator),
        )

    def forward(  # type: ignore[override]
        self, present: Tensor, future: Tensor, draws: Draws | None = None, *, with_prior: bool = True
    ) -> Prediction:
        """Return losses and predictions for pairs of frames.

        Args:
            present: normalised frames `(N, 3, S, S)` with S the pre-training size.
            future: later frames of the same videos, same shape.
            draws: random numbers; None = drawn now.
            with_prior: also predict from the prior sample (for the log: it takes a tenth of a step and moves no weight).

        Raises:
            UsageError: images of another size.
        """
        wanted = (3, self.image_size, self.image_size)
        if present.shape != future.shape or tuple(present.shape[1:]) != wanted:
            raise UsageError(
                f"pre-training got images {tuple(present.shape)} and {tuple(future.shape)}", expected=f"two of (N, {wanted})"
            )
        objective = self.objective
        draws = self.draw(future) if draws is None else draws
        # One batch for both frames: nothing in the network mixes samples.
        both = self.encode(torch.cat((present, future + objective.noise_scale * draws.noise)))
        source, target = both.chunk(2)
        post_logits = self.to_posterior(torch.cat((source[:, 0], target[:, 0]), 1))
        prior_logits = self.to_prior(source[:, 0])
        posterior, prior = self.latent(post_logits), self.latent(prior_logits)
        truth = self.pixel_targets(future)
        stored = self.decoder_embed_deter(source) + self.decoder_pos_embed
        from_post = self.decode(self.future_memory(stored, posterior.sample(draws.post)))
        from_prior = None
        if with_prior:
            with torch.no_grad():
                from_prior = self.decode(self.future_memory(stored, prior.sample(draws.prior)))
        visible, mask, restore = self.encode_visible(future, draws.mask_noise)
        from_visible = self.decode(*self.masked_memory(visible, restore))
        loss_post = (from_post.float() - truth).square().mean()
        error = (from_visible.float() - truth).square().mean(2)
        loss_mae = (error * mask).sum() / mask.sum()
        kl_value = balanced_kl(posterior, prior, balance=objective.kl_balance)
        kl_term = kl_value.clamp(min=objective.kl_freebit)
        return Prediction(
            loss=loss_post + objective.kl_scale * kl_term + loss_mae,
            loss_post=loss_post,
            loss_prior=None if from_prior is None else (from_prior.float() - truth).square().mean(),
            kl_term=kl_term,
            kl_value=kl_value,
            loss_mae=loss_mae,
            post=from_post,
            prior=from_prior,
            mae=from_visible,
            source=source,
            target=target,
            visible=visible,
            post_logits=post_logits,
            prior_logits=prior_logits,
            mask=mask,
            restore=restore,
        )

    def latent(self, logits: Tensor) -> Latent:
        """Return the distribution that logits of a head describe."""
        return make_latent(logits, stoch=self.objective.stoch, discrete=self.objective.discrete)

    def encode_visible(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the encoding of the patches that stay, class token first and the others in shuffled order, mask and restore.

        Args:
            images: clean frames.
            noise: uniform `(N, L)`; the int(L * (1 - mask_ratio)) smallest stay.
        """
        length = noise.shape[1]
        keep = int(length * (1 - self.objective.mask_ratio))
        order = noise.argsort(1)
        restore = order.argsort(1)
        tokens = self.embed(images)
        kept = order[:, :keep, None].expand(-1, -1, tokens.shape[2])
        visible = torch.cat((tokens[:, :1], tokens[:, 1:].gather(1, kept)), 1)
        return self.transform(visible), (restore >= keep).float(), restore

    def future_memory(self, stored: Tensor, sample: Tensor) -> Tensor:
        """Return what the decoder reads to predict the future: the latent sample first, without a position, then the source.

        Args:
            stored: `decoder_embed_deter(source) + decoder_pos_embed`.
            sample: `(N, latent size)`.
        """
        return torch.cat((self.decoder_embed_stoch(sample).unsqueeze(1), stored), 1)

    def masked_memory(self, visible: Tensor, restore: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the decoder reads to reconstruct: visible patches at their places, the mask token at the others.

        A hidden patch is the same token in every sample, so it is there once for the batch.

        Args:
            visible: `(N, K + 1, width)`, class token first.
            restore: `(N, L)`, place of each patch in the shuffled order.

        Returns:
            The different tokens `(N (K + 1) + L, decoder width)`, and int64 `(N, L + 1)`: which of them each token is.
        """
        x, position = self.decoder_embed_mae(visible), self.decoder_pos_embed
        batch, seen = x.shape[:2]
        where = restore.argsort(1)[:, : seen - 1] + 1
        shown = x + torch.cat((position[:, :1].expand(batch, -1, -1), position[0][where]), 1)
        hidden = self.mask_token + position[:, 1:]
        rows = torch.cat((shown.flatten(0, 1), hidden[0].to(shown.dtype)))
        first = torch.arange(batch, device=restore.device)[:, None] * seen
        behind = torch.arange(restore.shape[1], device=restore.device) + batch * seen
        places = torch.where(restore < seen - 1, first + 1 + restore, behind)
        return rows, torch.cat((first, places), 1)

    def decode(self, memory: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the predicted patches `(N, L, patch^2 * 3)`, read from a memory `(N, M, decoder width)`.

        The queries are the mask token at every position, the class position included; it is dropped at the end.

        Args:
            memory: tokens, or the different ones among them `(R, decoder width)`.
            places: in the second case which of them each token is, int64 `(N, M)`.
        """
        memory = standardised(memory)
        x = self.mask_token + self.decoder_pos_embed  # one row for the batch until the first block has read the memory
        for block in self.decoder_blocks:
            x = block(x, memory, places)
        return self.decoder_pred(self.decoder_norm(x[:, 1:]))

    @torch.no_grad()
    def pixel_targets(self, images: Tensor) -> Tensor:
        """Return the patches to predict, float32 `(N, L, patch^2 * 3)`, each normalised by itself under `norm_pix_loss`."""
        patches = patchify(images.float(), self.patch)
        if not self.objective.norm_pix_loss:
            return patches
        variance, mean = torch.var_mean(patches, 2, correction=1, keepdim=True)
        return (patches - mean) / (variance + 1e-6).sqrt()


def patchify(images: Tensor, patch: int) -> Tensor:
    """Return `(N, L, patch^2 * 3)` from `(N, 3, H, W)`; inside a patch the order is row, column, channel."""
    n, channels, height, width = images.shape
    x = images.view(n, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * channels)


def unpatchify(patches: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """Return `(N, 3, H, W)` from `(N, L, patch^2 * 3)` of a grid of (rows, columns) patches."""
    x = patches.view(len(patches), *grid, patch, patch, 3)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), 3, grid[0] * patch, grid[1] * patch)


def _head(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, out))
