"""The stochastic variable between two frames: one-hot classes, or Gaussians."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_STD = 0.1
"""Added to the softplus of a Gaussian's raw deviation, so that KL stays finite."""


class Latent(Protocol):
    """A distribution over latent variables, for each pair of frames."""

    def sample(self, draw: Tensor) -> Tensor:
        """Return a sample as one row per pair, with gradient."""
        ...

    def detach(self) -> Latent:
        """Return the same distribution without gradient."""
        ...

    def kl(self, other: Latent) -> Tensor:
        """Return KL(self || other) in nats summed over the variables, `(N,)`."""
        ...


class CategoricalLatent:
    """Independent one-hot variables.

    Args:
        logits: `(N, stoch, discrete)`; computed with in float32.
    """

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = F.log_softmax(logits.float(), -1)

    def sample(self, draw: Tensor) -> Tensor:
        """Return one-hot samples `(N, stoch * discrete)` whose gradient is that of the probabilities (straight-through).

        Args:
            draw: uniform numbers 0-1 `(N, stoch)`, turned into classes through the cumulative distribution; or the classes
                themselves, integer.
        """
        probs = self.log_probs.exp()
        if draw.is_floating_point():
            passed = probs.detach().cumsum(-1) <= draw.unsqueeze(-1)
            # A cumulative sum may end just below 1.
            draw = passed.sum(-1).clamp(max=probs.shape[-1] - 1)
        one_hot = F.one_hot(draw.long(), probs.shape[-1]).to(probs.dtype)
        return (one_hot + probs - probs.detach()).flatten(1)

    def detach(self) -> CategoricalLatent:
        """Return the same distribution without gradient."""
        other = object.__new__(CategoricalLatent)
        other.log_probs = self.log_probs.detach()
        return other

    def kl(self, other: Latent) -> Tensor:
        """Return KL(self || other) in nats summed over the variables, `(N,)`."""
        assert isinstance(other, CategoricalLatent)
        return (self.log_probs.exp() * (self.log_probs - other.log_probs)).sum((1, 2))


class GaussianLatent:
    """Independent Gaussian variables.

    Args:
        logits: `(N, 2 * stoch)`: means, then raw deviations (deviation = softplus(raw) + `MIN_STD`).
    """

    def __init__(self, logits: Tensor) -> None:
        self.mean, raw = logits.float().chunk(2, -1)
        self.std = F.softplus(raw) + MIN_STD

    def sample(self, draw: Tensor) -> Tensor:
        """Return mean + deviation * `draw`, `(N, stoch)`; `draw` are standard normal numbers of that shape."""
        return self.mean + self.std * draw.to(self.mean.dtype)

    def detach(self) -> GaussianLatent:
        """Return the same distribution without gradient."""
        other = object.__new__(GaussianLatent)
        other.mean, other.std = self.mean.detach(), self.std.detach()
        return other

    def kl(self, other: Latent) -> Tensor:
        """Return KL(self || other) in nats summed over the variables, `(N,)`."""
        assert isinstance(other, GaussianLatent)
        ratio = (self.std / other.std).square()
        shift = ((self.mean - other.mean) / other.std).square()
        return 0.5 * (ratio + shift - 1 - ratio.log()).sum(1)


def make_latent(logits: Tensor, *, stoch: int, discrete: int) -> Latent:
    """Return the distribution that `logits` `(N, ...)` describe; `discrete` = 0 means Gaussian."""
    return CategoricalLatent(logits.view(-1, stoch, discrete)) if discrete else GaussianLatent(logits)


def draw_latent(n: int, *, stoch: int, discrete: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Return the random numbers that `sample` takes, `(n, stoch)`: uniform for classes, normal for Gaussians."""
    kind = torch.rand if discrete else torch.randn
    return kind(n, stoch, device=device, generator=generator)


def balanced_kl(posterior: Latent, prior: Latent, *, balance: float) -> Tensor:
    """Return the batch mean of balance KL(q || sg p) + (1 - balance) KL(sg q || p), nats (Hafner et al.'s KL balancing)."""
    towards_prior = posterior.kl(prior.detach())
    towards_posterior = posterior.detach().kl(prior)
    return (balance * towards_prior + (1 - balance) * towards_posterior).mean()
