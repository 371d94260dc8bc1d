"""3x3 convolutions with half the multiplications: Winograd's minimal filtering F(4, 3) along the rows of an image.

Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, in one dimension: a strip of four outputs needs
six products in place of twelve per channel pair and kernel row, so the image becomes six planes of a quarter of its width and
each is convolved with a 3x1 kernel. One dimension keeps the transforms cheap and float32 results within a few times the
rounding of the direct sum. Gradients take the transposed algorithm and save as much. On a CPU, in float32, with many channels
this is 1.4 to 1.9 times faster; everything else goes to torch's own convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vos_core.ops.backend import backend_of

LEAST_CHANNELS = 128
"""Below this many input or output channels the transforms cost what they save."""
LEAST_ELEMENTS = 2**17
"""Below this many elements of the input the overhead of many small calls costs what they save."""
_TILE = 4
_PLANES = 6
_STRIP_BYTES = 12 * 2**20  # of the input of one strip: it and its planes stay in the last cache


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, rectify: bool = False) -> Tensor:
    """Return the convolution of `x` with a 3x3 kernel, stride 1 and padding 1; differentiable once.

    The op `conv3x3` of `VOS_OPS` chooses: `winograd` (the default on a CPU) or `torch`. Winograd needs float32, at least
    `LEAST_CHANNELS` channels on both sides and `LEAST_ELEMENTS` input elements; other tensors, and all under autocast, take the
    direct sum whatever is chosen.

    Args:
        x: `(B, C, H, W)`.
        weight: `(out, C, 3, 3)`.
        bias: `(out,)`.
        rectify: convolve `relu(x)`; the rectified tensor is not kept.

    Returns:
        `(B, out, H, W)`, channels last where Winograd computed it.
    """
    if pays(x, weight):
        y: Tensor = _Winograd.apply(x, weight, bias, rectify)
        return y
    return F.conv2d(torch.relu(x) if rectify else x, weight, bias, padding=1)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Say whether `conv3x3` takes the fast algorithm for these tensors."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and min(x.shape[2:]) >= _TILE
        and x.numel() >= LEAST_ELEMENTS
        and not torch.is_autocast_enabled("cpu")
        and backend_of("conv3x3", x) == "winograd"
    )


class PreparedConv3x3:
    """The weights of one layer, transformed and reordered once for calls without gradients; for tensors that `pays` accepts.

    Args:
        weight: float32 `(out, C, 3, 3)`; a later change of it is not seen.
    """

    def __init__(self, weight: Tensor) -> None:
        self.out_channels = weight.shape[0]
        self._kernels = [kernel.detach() for kernel in _kernels(weight)]
        self._packed = False

    def __call__(self, x: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """Return the convolution of `x` `(B, C, H, W)`, rectified if asked for, channels last."""
        y = _image(x, self.out_channels)
        _convolve(_pixels_last(x), self._product, y, bias, relu=relu)
        return y

    def add_to(self, total: Tensor, x: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """Add the convolution of `x` to `total` in place, rectify if asked for, and return it."""
        _convolve(_pixels_last(x), self._product, total, bias, add=True, relu=relu)
        return total

    def _product(self, number: int, plane: Tensor) -> Tensor:
        if not onednn_fused(plane):
            return F.conv2d(plane, self._kernels[number])
        if not self._packed:
            # Layouts hardly differ between strips of one clip; where they do, oneDNN reorders once more.
            shape = list(plane.shape)
            self._kernels = [
                torch.ops.mkldnn._reorder_convolution_weight(kernel, [0, 0], [1, 1], [1, 1], 1, shape) for kernel in self._kernels
            ]
            self._packed = True
        return torch.ops.mkldnn._convolution_pointwise(
            plane, self._kernels[number], None, [0, 0], [1, 1], [1, 1], 1, "none", [], ""
        )  # fmt: skip


def onednn_fused(x: Tensor) -> bool:
    """Say whether oneDNN's fused convolutions with weights reordered beforehand are there for `x`."""
    return (
        x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch.ops.mkldnn, "_reorder_convolution_weight")
    )


def _image(x: Tensor, channels: int) -> Tensor:
    """Return an empty image of this many channels and the other sizes of `x`, channels last."""
    size = (x.shape[0], channels, *x.shape[2:])
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _convolve(
    pixels: Tensor,
    product: Callable[[int, Tensor], Tensor],
    y: Tensor,
    bias: Tensor | None,
    *,
    rectify: bool = False,
    add: bool = False,
    relu: bool = False,
) -> None:
    """Write the convolution of `pixels` `(B, H, W, C)` into `y` `(B, out, H, W)`, or add it, strip by strip.

    `product` convolves the plane of a number with its 3x1 kernel.
    """
    rows = y.permute(0, 2, 3, 1)
    for top, bottom in _strips(pixels):
        planes = _planes(_padded(pixels, top, bottom, rectify=rectify))
        products = [_pixels_last(product(k, _channels(planes[k]))) for k in range(_PLANES)]
        strip = rows[:, top:bottom]
        result = torch.empty(strip.shape, dtype=y.dtype) if add else strip
        _gather(products, result)
        if bias is not None:
            result += bias
        if add:
            strip += result
        if relu:
            torch.relu_(strip)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, rectify: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rectify, ctx.biased = rectify, bias is not None
        kernels, y = _kernels(weight), _image(x, weight.shape[0])
        _convolve(_pixels_last(x), lambda k, plane: F.conv2d(plane, kernels[k]), y, bias, rectify=rectify)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        pixels, above = _pixels_last(x), _pixels_last(grad)
        # A plane's gradient goes back through the same kernel row by row upside down, inputs and outputs exchanged.
        turned = _kernels(weight.transpose(0, 1).flip(2)) if wants_x else []
        grad_x = torch.empty_like(pixels) if wants_x else None
        grad_kernels = pixels.new_empty(_PLANES, 3, *weight.shape[:2]) if wants_weight else None
        grad_bias = weight.new_zeros(weight.shape[0]) if wants_bias and ctx.biased else None
        for top, bottom in _strips(pixels):
            padded = _padded(pixels, top, bottom, rectify=ctx.rectify)
            strip = above[:, top:bottom]
            spread = _spread(strip)
            if grad_bias is not None:
                grad_bias += strip.sum((0, 1, 2))
            if grad_kernels is not None:
                _add_products(grad_kernels, spread, _planes(padded), fresh=top == 0)
            if grad_x is not None:
                # As forward convolutions over two more rows: oneDNN is faster at these than at its own backward of 3x1 kernels.
                planes = [_pixels_last(F.conv2d(_channels(spread[k]), turned[k], padding=(2, 0))) for k in range(_PLANES)]
                below = _merge(planes, padded.shape[2])
                if ctx.rectify:
                    below = torch.ops.aten.threshold_backward(below, padded, 0)
                _add_rows(grad_x, below, top, bottom)
        return (
            None if grad_x is None else _channels(grad_x),
            None if grad_kernels is None else _grad_of_weight(grad_kernels),
            grad_bias,
            None,
        )


def _pixels_last(x: Tensor) -> Tensor:
    """Return `(B, C, H, W)` as contiguous `(B, H, W, C)`."""
    return x.permute(0, 2, 3, 1).contiguous()


def _channels(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2)


def _strips(pixels: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (first row, row after the last) of horizontal strips of about equal height."""
    height = pixels.shape[1]
    rows = max(8, _STRIP_BYTES // max(1, pixels[:, 0].numel() * 4))
    rows = math.ceil(height / math.ceil(height / rows))
    for top in range(0, height, rows):
        yield top, min(height, top + rows)


def _padded(pixels: Tensor, top: int, bottom: int, *, rectify: bool) -> Tensor:
    """Return a strip with one more row and column around it and the width filled up to whole tiles, zeros outside."""
    batch, height, width, channels = pixels.shape
    tiles = -(-width // _TILE)
    low, high = max(0, top - 1), min(height, bottom + 1)
    padded = pixels.new_empty(batch, bottom - top + 2, _TILE * tiles + 2, channels)
    padded[:, :, 0] = 0
    padded[:, :, width + 1 :] = 0
    if low == top:
        padded[:, 0] = 0
    if high == bottom:
        padded[:, -1] = 0
    inside = padded[:, low - top + 1 : high - top + 1, 1 : width + 1]
    if rectify:
        torch.clamp_min(pixels[:, low:high], 0, out=inside)
    else:
        inside.copy_(pixels[:, low:high])
    return padded


def _kernels(weight: Tensor) -> list[Tensor]:
    """Return the six 3x1 kernels `(out, C, 3, 1)`, channels last, of a 3x3 one."""
    left, middle, right = weight.permute(0, 2, 3, 1).contiguous().unbind(2)  # (out, 3, C) each
    rows = weight.new_empty(_PLANES, *left.shape)
    ends, quarter = left + right, torch.add(left, right, alpha=4)
    torch.mul(left, 1 / 4, out=rows[0])
    torch.add(ends, middle, out=rows[1]).mul_(-1 / 6)
    torch.sub(ends, middle, out=rows[2]).mul_(-1 / 6)
    torch.add(quarter, middle, alpha=2, out=rows[3]).mul_(1 / 24)
    torch.sub(quarter, middle, alpha=2, out=rows[4]).mul_(1 / 24)
    rows[5] = right
    return [row.permute(0, 2, 1).unsqueeze(-1) for row in rows]


def _add_products(total: Tensor, spread: Tensor, planes: Tensor, *, fresh: bool) -> None:
    """Add to `total` `(6, 3, out, C)` the kernels' gradients: products of output gradients and inputs, row by row of the kernel.

    `fresh`: `total` holds nothing yet. Matrix products because oneDNN's gradient of narrow kernels runs at half their speed.
    """
    rows = spread.shape[2]
    for plane in range(_PLANES):
        for image in range(spread.shape[1]):
            outputs = spread[plane, image].flatten(0, 1).t()
            for row in range(3):
                inputs = planes[plane, image, row : row + rows].flatten(0, 1)
                if fresh and image == 0:
                    torch.mm(outputs, inputs, out=total[plane, row])
                else:
                    total[plane, row].addmm_(outputs, inputs)


def _grad_of_weight(kernels: Tensor) -> Tensor:
    """Return the gradient `(out, C, 3, 3)` from those of the six kernels `(6, 3, out, C)`: the transpose of `_kernels`."""
    k0, k1, k2, k3, k4, k5 = kernels.unbind(0)
    near, near_apart = (k1 + k2).mul_(-1 / 6), (k1 - k2).mul_(-1 / 6)
    far, far_apart = (k3 + k4).mul_(1 / 24), (k3 - k4).mul_(1 / 24)
    grad = kernels.new_empty(kernels.shape[2], 3, 3, kernels.shape[3])  # (out, row, column, C): channels last, as weights are
    left, middle, right = (grad[:, :, column].transpose(0, 1) for column in range(3))
    torch.add(near, far, out=left).add_(k0, alpha=1 / 4)
    torch.add(near_apart, far_apart, alpha=2, out=middle)
    torch.add(near, far, alpha=4, out=right).add_(k5)
    return grad.permute(0, 3, 1, 2)


def _planes(padded: Tensor) -> Tensor:
    """Return the six input planes `(6, B, rows, tiles, C)` of a padded strip: B^T d of each tile d of six columns."""
    batch, rows, width, channels = padded.shape
    tiles = (width - 2) // _TILE
    d = [padded[:, :, k : k + _TILE * (tiles - 1) + 1 : _TILE] for k in range(_PLANES)]
    v = padded.new_empty(_PLANES, batch, rows, tiles, channels)
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    torch.add(even, odd, out=v[1])
    torch.sub(even, odd, out=v[2])
    torch.sub(d[4], d[2], out=even)
    torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=v[3])
    torch.sub(even, odd, alpha=2, out=v[4])
    torch.sub(d[0], d[2], out=v[0])
    torch.add(even, v[0], alpha=4, out=v[0])
    torch.sub(d[5], d[3], out=v[5])
    torch.sub(v[5], odd, alpha=4, out=v[5])
    return v


def _merge(planes: list[Tensor], width: int) -> Tensor:
    """Return the gradient of a padded strip of this width from those of its planes: the transpose of `_planes`."""
    v0, v1, v2, v3, v4, v5 = planes
    batch, rows, tiles, channels = v0.shape
    d = v0.new_empty(batch, rows, width, channels)
    near, near_apart, far, far_apart = v1 + v2, v1 - v2, v3 + v4, v3 - v4
    first = [d[:, :, k : k + _TILE * (tiles - 1) + 1 : _TILE] for k in range(_TILE)]
    torch.mul(v0, 4, out=first[0])
    torch.sub(v5, near_apart, out=first[1]).mul_(4).sub_(far_apart, alpha=2)
    torch.add(v0, near, out=v1)
    torch.add(v1, far, out=first[2]).mul_(-1).sub_(v0, alpha=4).sub_(near, alpha=3)
    torch.add(near_apart, far_apart, alpha=2, out=first[3]).sub_(v5, alpha=5)
    last = v1.add_(far)
    d[:, :, -2] = last[:, :, -1]
    d[:, :, -1] = v5[:, :, -1]
    first[0][:, :, 1:] += last[:, :, :-1]
    first[1][:, :, 1:] += v5[:, :, :-1]
    return d


def _gather(products: list[Tensor], strip: Tensor) -> None:
    """Write into `strip` `(B, rows, W, out)` the outputs A^T m of each tile's six products."""
    m0, m1, m2, m3, m4, m5 = products
    near, near_apart = m1 + m2, m1.sub_(m2)
    far, far_apart = torch.add(m3, m4, out=m2), m3.sub_(m4)
    for k, (base, added, factor) in enumerate(
        ((near, far, 1), (near_apart, far_apart, 2), (near, far, 4), (near_apart, far_apart, 8))
    ):
        column = strip[:, :, k::_TILE]
        tiles = column.shape[2]  # the last tile may be cut
        torch.add(base[:, :, :tiles], added[:, :, :tiles], alpha=factor, out=column)
        if k in (0, 3):
            column += (m0 if k == 0 else m5)[:, :, :tiles]


def _spread(strip: Tensor) -> Tensor:
    """Return the gradients `(6, B, rows, tiles, out)` of the products from those of the outputs: the transpose of `_gather`."""
    batch, rows, width, channels = strip.shape
    tiles = -(-width // _TILE)
    if width % _TILE:
        strip = F.pad(strip, (0, 0, 0, _TILE * tiles - width))
    y0, y1, y2, y3 = (strip[:, :, k::_TILE] for k in range(_TILE))
    m = strip.new_empty(_PLANES, batch, rows, tiles, channels)
    m[0], m[5] = y0, y3
    even, odd = y0 + y2, y1 + y3
    torch.add(even, odd, out=m[1])
    torch.sub(even, odd, out=m[2])
    torch.add(y0, y2, alpha=4, out=even)
    torch.add(y1, y3, alpha=4, out=odd)
    torch.add(even, odd, alpha=2, out=m[3])
    torch.sub(even, odd, alpha=2, out=m[4])
    return m


def _add_rows(total: Tensor, padded: Tensor, top: int, bottom: int) -> None:
    """Put the gradient of a padded strip into that of the image; strips come from the top and share two rows."""
    height, width = total.shape[1:3]
    inside = padded[:, :, 1 : width + 1]
    fresh = 0 if top == 0 else 2  # rows of `inside` that the strip above has written already
    if fresh:
        total[:, top - 1 : top + 1] += inside[:, :2]
    low, high = (1 if top == 0 else fresh), min(bottom + 1, height) - top + 1
    total[:, top - 1 + low : top - 1 + high] = inside[:, low:high]
