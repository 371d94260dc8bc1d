"""Convolutions for inference: bias, residual sum and rectifier in one pass, weights reordered once.

On a CPU they run through oneDNN's fused kernels instead of reordering the weights at every call; elsewhere, or where this torch
lacks them, through plain torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class FusedConv(nn.Module):
    """A convolution, then an optional sum and an optional rectifier, in one pass where the platform can.

    Args:
        conv: gives weight, bias, stride and padding.
        relu: rectify the result.
        bias: False leaves the bias of `conv` out (it is added elsewhere).
        channels: input channels of `conv` to keep.
    """

    def __init__(self, conv: nn.Conv2d, *, relu: bool = False, bias: bool = True, channels: slice = slice(None)) -> None:
        super().__init__()
        weight = conv.weight.detach()[:, channels].contiguous(memory_format=torch.channels_last)
        self.weight: Tensor
        self.bias: Tensor | None
        self.register_buffer("weight", weight)
        self.register_buffer("bias", conv.bias.detach() if bias and conv.bias is not None else None)
        self.relu = relu
        self.stride, self.padding = conv.stride, [int(side) for side in conv.padding]
        self._packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`, rectified if asked for."""
        packed = self._pack(x)
        if packed is None:
            y = F.conv2d(x, self.weight, self.bias, self.stride, tuple(self.padding))
            return y.relu_() if self.relu else y
        activation = "relu" if self.relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, packed, self.bias, self.padding, self.stride, [1, 1], 1, activation, [], ""
        )

    def add_to(self, sum_: Tensor, x: Tensor) -> Tensor:
        """Add the convolution of `x` to `sum_` in place, rectify if asked for, and return it."""
        packed = self._pack(x)
        if packed is None or not sum_.is_contiguous(memory_format=torch.channels_last):
            sum_.add_(F.conv2d(x, self.weight, self.bias, self.stride, tuple(self.padding)))
            return sum_.relu_() if self.relu else sum_
        activation = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            sum_, x, packed, self.bias, self.padding, self.stride, [1, 1], 1, "add", 1.0, activation, [], ""
        )

    def _pack(self, x: Tensor) -> Tensor | None:
        if not _onednn(x):
            return None
        if self._packed is None or self._packed[0] != x.shape[1:]:
            # The best layout depends on the input's size, which changes with the clip only; any other would be reordered.
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self.weight, self.padding, self.stride, [1, 1], 1, list(x.shape)
            )
            self._packed = (x.shape[1:], packed)
        return self._packed[1]


def _onednn(x: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )
