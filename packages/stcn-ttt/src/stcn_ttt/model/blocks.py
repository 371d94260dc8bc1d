"""The pre-activation residual block and the way it shares work between the objects of a frame."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from vos_core.ops.conv3x3 import conv3x3


class SharedPart(NamedTuple):
    """What one frame contributes to a `ResBlock` on concatenated input, for all of its objects: `(B, out, h, w)` each."""

    conv1: Tensor
    downsample: Tensor


class WideConv(nn.Conv2d):
    """A 3x3 convolution, stride 1 and padding 1, of many channels: see `vos_core.ops.conv3x3`."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h, w)` of `(B, in, h, w)`."""
        return conv3x3(x, self.weight, self.bias)


class ResBlock(nn.Module):
    """`x + conv2(relu(conv1(relu(x))))` without norms; where widths differ, `x` first passes a 3x3 `downsample`.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        # First, as in the original: its checkpoints number the optimiser's state by the order of parameters.
        self.downsample = None if in_channels == out_channels else WideConv(in_channels, out_channels)
        self.conv1 = WideConv(in_channels, out_channels)
        self.conv2 = WideConv(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, out, h, w)` of `(B, in, h, w)`."""
        shortcut = x if self.downsample is None else self.downsample(x)
        inner = conv3x3(x, self.conv1.weight, self.conv1.bias, rectify=True)
        return conv3x3(inner, self.conv2.weight, self.conv2.bias, rectify=True).add_(shortcut)


class SharingResBlock(nn.Module):
    """A `ResBlock` on `[own, shared]`, where `own` differs between the objects of a frame and `shared` does not.

    A convolution over concatenated channels is the sum of one over each part and the rectifier is elementwise, so the shared
    part is computed once per frame: equal in exact arithmetic, another order of summation in floating point.

    Args:
        own_channels: channels of each object's part; the first of the concatenation.
        shared_channels: channels of the frame's part.
        out_channels: channels of the output.
    """

    def __init__(self, own_channels: int, shared_channels: int, out_channels: int) -> None:
        super().__init__()
        self.own_channels = own_channels
        self.downsample = WideConv(own_channels + shared_channels, out_channels)  # first as in `ResBlock`
        self.conv1 = WideConv(own_channels + shared_channels, out_channels)
        self.conv2 = WideConv(out_channels, out_channels)

    def share(self, shared: Tensor) -> SharedPart:
        """Return the frame's part for `forward`; biases are in here.

        Args:
            shared: `(B, shared_channels, h, w)`.
        """
        return SharedPart(
            conv3x3(shared, self.conv1.weight[:, self.own_channels :], self.conv1.bias, rectify=True),
            conv3x3(shared, self.downsample.weight[:, self.own_channels :], self.downsample.bias),
        )

    def forward(self, own: Tensor, part: SharedPart) -> Tensor:
        """Return `(B * N, out, h, w)` of `own` `(B * N, own_channels, h, w)` and the frame's part `(B, ...)`."""
        inner = add_shared(conv3x3(own, self.conv1.weight[:, : self.own_channels], rectify=True), part.conv1)
        shortcut = add_shared(conv3x3(own, self.downsample.weight[:, : self.own_channels]), part.downsample)
        return conv3x3(inner, self.conv2.weight, self.conv2.bias, rectify=True).add_(shortcut)


def add_shared(own: Tensor, shared: Tensor) -> Tensor:
    """Add to `own` `(B * N, C, h, w)`, in place, `shared` `(B, C, h, w)` for each of the N objects of a frame, and return it."""
    if shared.shape[0] in (1, own.shape[0]):
        return own.add_(shared)
    own.view(shared.shape[0], -1, *own.shape[1:]).add_(shared.unsqueeze(1))
    return own
