"""The layers of a hypernetwork block with fewer multiplications and the same result up to rounding (spec section 8.4, 8.5).

Nine tenths of a large block's work are 5 x 5 convolutions of maps up to 256 x 2048 with up to 128 channels. They are done in
tiles of 32 rows whose columns are transformed by a real Fourier matrix: a pixel then costs 11 multiplications per pair of
channels in place of 25, all of them in matrix products, and nothing larger than a tile is held besides input and output. A
convolution to one channel mixes channels first and shifts afterwards; a kernel of one long row is applied row by row in the
Fourier domain. Small maps stay as they are, since their convolutions cost nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TILE = 32
"""Rows of a tile."""
MIN_TAP_WORK = 2**27
"""Multiplications of one tap of a convolution from which tiles pay off."""
_MIN_MIX_WORK = 2**21
"""Likewise for mixing the channels of a convolution to a single channel first."""
_MIN_ROW = 64
"""Taps of a row kernel from which row transforms pay off."""


def generate_kernels(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return what `layers` make of `x`, `(M, 1, 32, 32)` to `(M, taps, out, in)`."""
    place, count = 0, len(layers)
    while place < count:
        layer = layers[place]
        if not torch.is_grad_enabled() and _ends_wide(layers, place, x):
            x, place = _widened(x, layers[place + 1], layers[place + 2], layers[place + 3]), place + 4
            continue
        after = layers[place + 1] if place + 1 < count else None
        if isinstance(layer, nn.Conv2d) and isinstance(after, nn.LeakyReLU) and _tiled(layer, x.shape[-2] * x.shape[-1], x):
            x, place = convolve_tiles(x, layer.weight, layer.bias, slope=after.negative_slope), place + 2
            continue
        if isinstance(layer, nn.Conv2d) and layer.padding == (2, 2) and layer.out_channels == 1 and _mixes(layer, x):
            x = mix_and_shift(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 1 and layer.kernel_size[1] >= _MIN_ROW:
            x = convolve_rows(x, layer.weight, layer.bias)
        else:
            x = layer(x)
        place += 1
    return x


def _ends_wide(layers: nn.Sequential, place: int, x: Tensor) -> bool:
    """Return whether here come doubling in width, a large convolution, and one to a single channel."""
    if place + 3 >= len(layers):
        return False
    up, wide, last = layers[place], layers[place + 1], layers[place + 3]
    if not (isinstance(up, nn.Upsample) and isinstance(wide, nn.Conv2d) and isinstance(last, nn.Conv2d)):
        return False
    doubled = up.scale_factor == (1.0, 2.0) and last.out_channels == 1 and last.padding == (2, 2)
    return doubled and _tiled(wide, 2 * x.shape[-2] * x.shape[-1], x)


def _tiled(layer: nn.Conv2d, pixels: int, x: Tensor) -> bool:
    work = layer.in_channels * layer.out_channels * pixels
    return layer.padding == (2, 2) and work >= MIN_TAP_WORK and not _autocasts(x)


def _mixes(layer: nn.Conv2d, x: Tensor) -> bool:
    return layer.in_channels * x.shape[-2] * x.shape[-1] >= _MIN_MIX_WORK and not _autocasts(x)


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type  # a meta tensor, which has shapes alone, knows no autocast
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def convolve_tiles(x: Tensor, weight: Tensor, bias: Tensor | None, *, slope: float = 1.0) -> Tensor:
    """Return leaky ReLU of `F.conv2d(x, weight, bias, padding=k // 2)` for square odd kernels.

    Args:
        x: `(M, C, H, W)`, float32.
        weight: `(O, C, k, k)`.
        bias: `(O,)` or None.
        slope: of the leaky ReLU; 1 = none.
    """
    block = kernel_blocks(weight)
    offset = weight.new_zeros(weight.shape[0]) if bias is None else bias
    parts = [_Tiles.apply(one, block, offset, weight.shape[-1], slope) for one in x]
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


def kernel_blocks(weight: Tensor) -> Tensor:
    """Return `(16, k, 2 O, 2 C)`: per frequency and column tap the real matrix of a product with the conjugate spectrum."""
    forward, _ = _matrices(TILE - weight.shape[-1] + 1, weight.dtype, weight.device)
    spectrum = torch.einsum("gr,ocrs->gsoc", forward[:, : weight.shape[-1]], weight)
    real, imaginary = spectrum[::2], spectrum[1::2]
    zero = torch.zeros_like(imaginary[:1])
    cross = torch.cat((zero, imaginary[1:]))  # bin 0 holds the two real frequencies, 0 and 16
    corner = torch.cat((imaginary[:1], real[1:]))
    return torch.cat((torch.cat((real, cross), 3), torch.cat((-cross, corner), 3)), 2)


@functools.lru_cache(maxsize=16)
def _matrices(step: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the real Fourier matrix `(32, 32)`, rows in pairs (real, imaginary), and the first `step` rows of its inverse."""
    rows = torch.arange(TILE, dtype=torch.float64)
    forward, inverse = torch.zeros(TILE, TILE, dtype=torch.float64), torch.zeros(TILE, TILE, dtype=torch.float64)
    for f in range(TILE // 2):
        cosine, sine = torch.cos(2 * math.pi * f * rows / TILE), torch.sin(2 * math.pi * f * rows / TILE)
        forward[2 * f], forward[2 * f + 1] = cosine, -sine
        inverse[:, 2 * f], inverse[:, 2 * f + 1] = 2 * cosine / TILE, -2 * sine / TILE
    forward[1] = torch.cos(math.pi * rows)
    inverse[:, 0], inverse[:, 1] = 1 / TILE, torch.cos(math.pi * rows) / TILE
    with torch.inference_mode(False):
        return forward.to(device, dtype), inverse[:step].contiguous().to(device, dtype)


def _padded(x: Tensor, k: int) -> Tensor:
    """Return `(C, H, W)` as rows `(tiles * step + k - 1, C, W + k - 1)` with a margin of zeros."""
    channels, height, width = x.shape
    step, pad = TILE - k + 1, k // 2
    tiles = -(-height // step)
    padded = x.new_zeros(tiles * step + k - 1, channels, width + k - 1)
    padded[pad : pad + height, :, pad : pad + width] = x.permute(1, 0, 2)
    return padded


def _tiles(padded: Tensor, k: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each tile's first row and its rows `(32, C, W + k - 1)`."""
    for first in range(0, padded.shape[0] - k + 1, TILE - k + 1):
        yield first, padded[first : first + TILE]


def _spectra(tiles: Iterator[tuple[int, Tensor]], k: int) -> Iterator[tuple[int, Tensor]]:
    """Yield each tile's first row and its bins `(16, 2 C, W + k - 1)`."""
    for first, rows in tiles:
        forward, _ = _matrices(TILE - k + 1, rows.dtype, rows.device)
        yield first, (forward @ rows.reshape(TILE, -1)).view(TILE // 2, 2 * rows.shape[1], rows.shape[2])


def _convolved(
    tiles: Iterator[tuple[int, Tensor]], block: Tensor, offset: Tensor, k: int, slope: float
) -> Iterator[tuple[int, Tensor]]:
    """Yield each tile's first row and its result `(step, O, W)`."""
    step, out = TILE - k + 1, block.shape[2] // 2
    _, inverse = _matrices(step, block.dtype, block.device)
    for first, bins in _spectra(tiles, k):
        width = bins.shape[2] - k + 1
        mixed = torch.bmm(block[:, 0], bins[:, :, :width])
        for s in range(1, k):
            mixed.baddbmm_(block[:, s], bins[:, :, s : s + width])
        rows = (inverse @ mixed.view(TILE, -1)).view(step, out, width)
        rows += offset[:, None]
        yield first, F.leaky_relu_(rows, slope) if slope != 1 else rows


class _Tiles(torch.autograd.Function):
    """`convolve_tiles` of one map `(C, H, W)`; backward transforms tiles again in place of keeping them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Tensor, offset: Tensor, k: int, slope: float) -> Tensor:
        height, width, step = x.shape[1], x.shape[2], TILE - k + 1
        padded = _padded(x, k)
        y = x.new_empty(padded.shape[0] - k + 1, block.shape[2] // 2, width)
        for first, rows in _convolved(_tiles(padded, k), block, offset, k, slope):
            y[first : first + step] = rows
        y = y[:height].permute(1, 0, 2)
        ctx.save_for_backward(padded, block, y)
        ctx.k, ctx.slope = k, slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        padded, block, y = ctx.saved_tensors
        k, (out, height, width) = ctx.k, y.shape
        step, pad = TILE - k + 1, k // 2
        forward, inverse = _matrices(step, padded.dtype, padded.device)
        wants_x, wants_block, wants_offset = ctx.needs_input_grad[:3]
        into_x = torch.zeros_like(padded) if wants_x else None
        into_block = torch.zeros_like(block) if wants_block else None
        into_offset = y.new_zeros(out) if wants_offset else None
        into_y = gradients[0].permute(1, 0, 2)
        signs = y.permute(1, 0, 2)
        for first, bins in _spectra(_tiles(padded, k), k):
            last = min(first + step, height)
            rows = into_y.new_zeros(step, out, width)
            rows[: last - first] = into_y[first:last]
            if ctx.slope != 1:
                rows[: last - first].mul_(torch.where(signs[first:last] > 0, 1.0, ctx.slope))
            if into_offset is not None:
                into_offset += rows.sum((0, 2))
            mixed = (inverse.T @ rows.view(step, -1)).view(TILE // 2, 2 * out, width)
            if into_block is not None:
                for s in range(k):
                    into_block[:, s] += torch.bmm(mixed, bins[:, :, s : s + width].mT)
            if into_x is not None:
                into_bins = torch.zeros_like(bins)
                for s in range(k):
                    into_bins[:, :, s : s + width] += torch.bmm(block[:, s].mT, mixed)
                into_x[first : first + TILE].view(TILE, -1).addmm_(forward.T, into_bins.view(TILE, -1))
        if into_x is not None:
            into_x = into_x[pad : pad + height, :, pad : pad + width].permute(1, 0, 2)
        return into_x, into_block, into_offset, None, None


def _widened(x: Tensor, layer: nn.Module, activation: nn.Module, last: nn.Module) -> Tensor:
    """Return `last(activation(layer(doubled in width)))` without gradients, tile by tile: neither wide map is ever whole."""
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(activation, nn.LeakyReLU)
    assert isinstance(last, nn.Conv2d)
    k, height, width = layer.kernel_size[0], x.shape[-2], 2 * x.shape[-1]
    block, taps = kernel_blocks(layer.weight), _tap_rows(last.weight)
    offset = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    step, pad, side = TILE - k + 1, k // 2, last.kernel_size[0]
    margin = side // 2
    found = []
    for one in x:
        y = one.new_zeros(height + 2 * margin, width + 2 * margin)

        def tiles(narrow: Tensor = one) -> Iterator[tuple[int, Tensor]]:
            for first in range(0, height, step):
                rows_HCW = narrow[:, max(first - pad, 0) : first - pad + TILE].permute(1, 0, 2)
                wide = F.interpolate(rows_HCW, scale_factor=2, mode="linear", align_corners=True)
                above = max(pad - first, 0)
                yield first, F.pad(wide, (pad, pad, 0, 0, above, TILE - above - wide.shape[0]))

        for first, rows in _convolved(tiles(), block, offset, k, activation.negative_slope):
            count = min(step, height - first)
            maps_HKW = torch.bmm(taps.expand(count, -1, -1), rows[:count])
            for tap in range(side * side):
                top, left = first + tap // side, tap % side
                y[top : top + count, left : left + width] += maps_HKW[:, tap]
        y = y[margin : margin + height, margin : margin + width]
        found.append(y[None] if last.bias is None else y[None] + last.bias[:, None, None])
    return torch.stack(found)


def mix_and_shift(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=k // 2)` for few outputs: one matrix product for all taps, then shifts.

    Args:
        x: `(M, C, H, W)`.
        weight: `(O, C, k, k)`.
        bias: `(O,)` or None.
    """
    taps = _tap_rows(weight)
    rows = [one.permute(1, 0, 2) for one in x]
    return torch.stack([_shifted(torch.bmm(taps.expand(len(row), -1, -1), row), weight, bias) for row in rows])


def _tap_rows(weight: Tensor) -> Tensor:
    """Return `(O k k, C)`, taps in the order in which `F.fold` shifts them."""
    return weight.flip(2, 3).permute(0, 2, 3, 1).flatten(0, 2)


def _shifted(maps_HKW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `(O, H, W)`: the maps of all taps, each shifted to its place, added."""
    height, width, k = maps_HKW.shape[0], maps_HKW.shape[2], weight.shape[-1]
    columns = maps_HKW.permute(1, 0, 2).reshape(maps_HKW.shape[1], height * width)
    y = F.fold(columns, (height, width), k, padding=k // 2)
    return y if bias is None else y + bias[:, None, None]


def convolve_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.conv2d(x, weight, bias)` of `(M, C, H, W)` for kernels `(O, C, 1, n)`, row by row in the Fourier domain."""
    size, taps = x.shape[-1], weight.shape[-1]
    spectrum = torch.fft.rfft(weight.float()[:, :, 0], n=size).conj()  # nothing wraps into the valid part
    bins = torch.fft.rfft(x.float(), n=size)
    mixed = bins * spectrum[0, 0] if weight.shape[:2] == (1, 1) else torch.einsum("mchb,ocb->mohb", bins, spectrum)
    y = torch.fft.irfft(mixed, n=size)[..., : size - taps + 1]
    return (y if bias is None else y + bias.view(-1, 1, 1)).to(x.dtype)
