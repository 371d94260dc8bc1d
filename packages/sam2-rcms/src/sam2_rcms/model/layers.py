"""Small blocks that several parts share."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vos_core.ops.linear import Activation, linear


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of `(B, C, H, W)`: biased variance, then an affine map per channel."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` normed, in its own memory format."""
        if not torch.is_grad_enabled():
            # The same numbers in one fused pass; channels last needs no copy.
            normed = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
            return normed.permute(0, 3, 1, 2)
        centred = x - x.mean(1, keepdim=True)
        normed = centred / torch.sqrt(centred.square().mean(1, keepdim=True) + self.eps)
        return self.weight[:, None, None] * normed + self.bias[:, None, None]


class MLP(nn.Module):
    """Linear layers with an activation between them.

    Args:
        widths: channels of the input, of each hidden layer and of the output.
        activation: after every layer but the last; `gelu` is the exact one.
        sigmoid: squash the output to 0-1.
    """

    def __init__(self, widths: tuple[int, ...], *, activation: Activation = "relu", sigmoid: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation, self.sigmoid = activation, sigmoid

    def forward(self, x: Tensor) -> Tensor:
        """Return `(..., widths[-1])` of `(..., widths[0])`."""
        *hidden, last = (cast(nn.Linear, layer) for layer in self.layers)
        for layer in hidden:
            x = linear(x, layer.weight, layer.bias, activation=self.activation)
        x = linear(x, last.weight, last.bias)
        return torch.sigmoid(x) if self.sigmoid else x


class DropPath(nn.Module):
    """Drops the whole residual branch of a sample with probability `rate` in training (stochastic depth)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, or zeros, scaled so that the mean stays."""
        if self.rate == 0 or not self.training:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.rate)
        return x * keep / (1 - self.rate)
