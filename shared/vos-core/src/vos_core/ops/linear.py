"""A linear layer and the activation after it in one pass over memory where the platform can.

On a CPU the exact GELU costs as much as the matrix product before it: each is a pass over a tensor that no cache holds. oneDNN
applies it while the product is still in registers, 1.2 to 1.5 times faster for both together; its product alone is also the
faster one on many CPUs. In training, where the activation's input is kept, that holds in bfloat16 only: torch's own layer writes
the bias into the result first and adds the product to it, a pass that a bfloat16 product is too quick to hide.
Results differ from torch's own by rounding.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from vos_core.ops.conv3x3 import onednn_fused

Activation = Literal["none", "relu", "gelu"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: Activation = "none") -> Tensor:
    """Return `activation(x @ weight.T + bias)`; torch's own layers where oneDNN is not there, or is no faster.

    Args:
        x: `(..., C)`.
        weight: `(out, C)`.
        bias: `(out,)`.
        activation: `gelu` is the exact one (erf).

    Returns:
        `(..., out)`; under autocast in its dtype.
    """
    training = torch.is_grad_enabled()
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    slower = training and kind != torch.bfloat16
    if slower or not onednn_fused(x) or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return _ACTIVATIONS[activation](F.linear(x, weight, bias))
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    if x.dtype != weight.dtype:
        return _ACTIVATIONS[activation](F.linear(x, weight, bias))  # torch says what is wrong
    if training:
        y: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias)
        return _ACTIVATIONS[activation](y.view(*x.shape[:-1], -1))
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none" if activation == "gelu" else "")


class _Linear(torch.autograd.Function):
    """The layer by oneDNN on rows `(R, C)`, with gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            gradient @ weight if to_x else None,
            gradient.t() @ x if to_weight else None,
            gradient.sum(0) if to_bias else None,
        )


_ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu_, "gelu": F.gelu}
