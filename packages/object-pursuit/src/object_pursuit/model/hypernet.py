"""The hypernetwork: from a code to the weights of every layer in a table (spec section 2.1; Object Pursuit, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from object_pursuit.model.kernel_tail import generate_kernels

SEED_SIDE = 32
"""A code is first spread over 32 x 32 numbers, from which kernels grow."""
_SLOPE = 0.01
PARTS = ("weight", "bn_weight", "bn_bias")


class Mlp(nn.Module):
    """Two hidden layers with ReLU: code to one number per output channel; `net.i.net.0` as in the checkpoints.

    Args:
        z_dim: numbers in a code.
        width: hidden and output width.
    """

    def __init__(self, z_dim: int, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(LinearRelu(z_dim, width), LinearRelu(width, width), nn.Linear(width, width))
        _init_linear(self.net[2])

    def forward(self, z: Tensor) -> Tensor:
        """Return `(width,)` of a code, `(M, width)` of M codes."""
        return self.net(z)


class LinearRelu(nn.Module):
    """A linear layer and ReLU."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(inside, outside), nn.ReLU())
        _init_linear(self.net[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return `(..., outside)` of `(..., inside)`."""
        return self.net(x)


class HyperBlock(nn.Module):
    """Generates one layer: a kernel grown from a 32 x 32 map, and a gain and an offset of its norm.

    The map is doubled along each axis that is still shorter than the kernel's (outputs down, inputs across), each time with a
    convolution that doubles its channels, then cut to size by a valid convolution whose channels are the taps of the kernel.

    Args:
        z_dim: numbers in a code.
        shape: (outputs, inputs, k, k) of the layer.
    """

    def __init__(self, z_dim: int, shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        height, width, k, _ = shape
        self.shape = shape
        self.expand_linear = nn.Linear(z_dim, SEED_SIDE * SEED_SIDE)
        layers: list[nn.Module] = []
        h = w = SEED_SIDE
        inside, outside = 1, 4
        while height > h or width > w:
            tall, wide = height > h, width > w
            size, padding = (3, 1) if tall and wide else (5, 2)
            scale = (2 if tall else 1, 2 if wide else 1)
            layers += [
                nn.Upsample(scale_factor=scale, mode="bilinear", align_corners=True),
                nn.Conv2d(inside, outside, size, padding=padding),
                nn.LeakyReLU(_SLOPE),
            ]
            h, w, inside, outside = h * scale[0], w * scale[1], outside, 2 * outside
        layers += [nn.Conv2d(inside, k * k, 5, padding=2), nn.LeakyReLU(_SLOPE)]
        layers.append(nn.Conv2d(k * k, k * k, (h - height + 1, w - width + 1)))
        self.conv_kernel_gen = nn.Sequential(*layers)
        self.widest_map = h * w * inside
        self.bn_weight = Mlp(z_dim, height)
        self.bn_bias = Mlp(z_dim, height)

    def forward(self, z: Tensor, *, exact_order: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return kernel `(out, in, k, k)`, gain `(out)` and offset `(out)` of a code `(z_dim,)`, or of M codes, M first.

        Args:
            z: a code, or codes `(M, z_dim)`.
            exact_order: run the layers one by one as they are written, instead of the same sums in a cheaper order.
        """
        height, width, k, _ = self.shape
        seed = self.expand_linear(z).view(-1, 1, SEED_SIDE, SEED_SIDE)
        taps = self.conv_kernel_gen(seed) if exact_order else generate_kernels(self.conv_kernel_gen, seed)
        kernels = taps.permute(0, 2, 3, 1).reshape(*z.shape[:-1], height, width, k, k)  # tap (r, s) is channel r * k + s
        return kernels, self.bn_weight(z), self.bn_bias(z)


class Hypernet(nn.Module):
    """One block per layer of a table.

    Args:
        z_dim: numbers in a code.
        table: layer name -> (outputs, inputs, k, k).
    """

    def __init__(self, z_dim: int, table: Mapping[str, tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.table = dict(table)
        self.exact_order = False
        """Whether layers run one by one as they are written, instead of the same sums in a cheaper order."""
        self.blocks = nn.ModuleDict({name.replace(".", "-"): HyperBlock(z_dim, shape) for name, shape in table.items()})

    @property
    def widest_map(self) -> int:
        """Numbers in the widest map that one code passes through; what memory a pass needs."""
        return max(int(block.widest_map) for block in self.blocks.values())  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> dict[str, Tensor]:
        """Return `<layer>.weight` (out, in, k, k), `<layer>.bn_weight` (out) and `<layer>.bn_bias` (out) for every layer.

        Args:
            z: a code `(z_dim,)`, or codes `(M, z_dim)`, which put M before every shape.
        """
        weights: dict[str, Tensor] = {}
        for name, block in zip(self.table, self.blocks.values(), strict=True):
            parts = block(z, exact_order=self.exact_order)
            weights |= {f"{name}.{part}": value for part, value in zip(PARTS, parts, strict=True)}
        return weights


def _init_linear(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)


def combine_codes(coefficients: Tensor, bases: Tensor) -> Tensor:
    """Return Σ c_i z_i, `(z_dim,)`, summed in the order of the bases.

    Args:
        coefficients: `(K,)`.
        bases: codes `(K, z_dim)`.
    """
    total = torch.zeros_like(bases[0])
    for coefficient, base in zip(coefficients, bases, strict=True):
        total = total + coefficient * base
    return total
