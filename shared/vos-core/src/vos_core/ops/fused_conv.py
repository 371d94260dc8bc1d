"""Convolutions for inference: bias, residual sum and rectifier in one pass, weights reordered once.

On a CPU they run through oneDNN's fused kernels instead of reordering the weights at every call, wide 3x3 kernels in float32
through `conv3x3`; elsewhere, or where this torch lacks them, through plain torch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vos_core.ops.conv3x3 import PreparedConv3x3, onednn_fused, pays


class FusedConv(nn.Module):
    """A convolution, then an optional sum and an optional rectifier, in one pass where the platform can.

    To be moved to its device and dtype before its first call: from then on a CPU holds the weights in oneDNN's order alone.

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
        self._wide = tuple(conv.kernel_size) == (3, 3) and tuple(conv.stride) == (1, 1) and self.padding == [1, 1]
        self._prepared: tuple[Tensor, PreparedConv3x3] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of `x`, rectified if asked for."""
        if (fast := self._fast(x)) is not None:
            return fast(x, self.bias, relu=self.relu)
        packed = self._pack(x)
        if packed is None:
            y = F.conv2d(x, self._plain(), self.bias, self.stride, tuple(self.padding))
            return y.relu_() if self.relu else y
        activation = "relu" if self.relu else "none"
        return torch.ops.mkldnn._convolution_pointwise(
            x, packed, self.bias, self.padding, self.stride, [1, 1], 1, activation, [], ""
        )

    def add_to(self, sum_: Tensor, x: Tensor) -> Tensor:
        """Add the convolution of `x` to `sum_` in place, rectify if asked for, and return it."""
        if (fast := self._fast(x)) is not None:
            return fast.add_to(sum_, x, self.bias, relu=self.relu)
        packed = self._pack(x)
        if packed is None or not sum_.is_contiguous(memory_format=torch.channels_last):
            sum_.add_(F.conv2d(x, self._plain(), self.bias, self.stride, tuple(self.padding)))
            return sum_.relu_() if self.relu else sum_
        activation = "relu" if self.relu else None
        return torch.ops.mkldnn._convolution_pointwise_.binary(
            sum_, x, packed, self.bias, self.padding, self.stride, [1, 1], 1, "add", 1.0, activation, [], ""
        )

    def _fast(self, x: Tensor) -> PreparedConv3x3 | None:
        """Return what computes a wide 3x3 kernel with half the multiplications, where that pays."""
        if not (self._wide and pays(x, self.weight)):
            return None
        if self._prepared is None or self._prepared[0] is not self.weight:
            self._prepared = (self.weight, PreparedConv3x3(self.weight))
        return self._prepared[1]

    def _pack(self, x: Tensor) -> Tensor | None:
        if not onednn_fused(x):
            return None
        if self._packed is None or self._packed[0] != x.shape[1:]:
            # The best layout depends on the input's size, which changes with the clip only; any other would be reordered.
            packed = torch.ops.mkldnn._reorder_convolution_weight(
                self._plain(), self.padding, self.stride, [1, 1], 1, list(x.shape)
            )
            self._packed = (x.shape[1:], packed)
            if not self._wide:
                self.weight = self.weight.new_empty(0)
        return self._packed[1]

    def _plain(self) -> Tensor:
        """Return the weights as they came; reordered ones give them back bit by bit, so that they are held once."""
        return self.weight if self._packed is None or self._wide else self._packed[1].to_dense()
