"""A batch norm that never changes, and the folding of it into the convolution before it."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch norm by stored statistics; all four tensors are buffers, as in the checkpoints.

    Args:
        channels: of the map.
        eps: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised map `(B, C, H, W)`."""
        scale, shift = self.affine()
        return x * scale.view(1, -1, 1, 1) + shift.view(1, -1, 1, 1)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return the factor and summand per channel that the norm amounts to."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale


@torch.no_grad()
def fold_norms(module: nn.Module) -> None:
    """Move every frozen norm of `module` into the convolution that precedes it; results move by rounding only.

    A norm must be the child right after its convolution, as it is in all encoders here.
    """
    for parent in module.modules():
        children = list(parent.named_children())
        for (_, conv), (name, norm) in itertools.pairwise(children):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, FrozenBatchNorm2d):
                scale, shift = norm.affine()
                conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1), requires_grad=False)
                conv.bias = nn.Parameter(shift.clone(), requires_grad=False)
                setattr(parent, name, nn.Identity())
