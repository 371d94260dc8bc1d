"""The layers of a hypernetwork block with fewer multiplications and the same result up to rounding (spec section 8.4, 8.5).

Nine tenths of a large block's work are 5 x 5 convolutions of maps up to 256 x 2048 with up to 128 channels. They are done in
tiles of 16 x 16 pixels, each transformed by real Fourier matrices: a pixel then costs 3.6 multiplications per pair of channels
in place of 25, all of them in matrix products, and no more than a row of tiles is held besides input and output. A convolution
to one channel mixes channels first and shifts afterwards; a kernel of one long row is applied row by row in the Fourier domain.
Small maps stay as they are, since their convolutions cost nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

TILE = 16
"""Rows and columns of a tile."""
_TILES_AT_A_TIME = 128
"""Tiles that are transformed together, at least one row of them: enough columns for matrix products, few enough for caches."""
MIN_TAP_WORK = 2**27
"""Multiplications of one tap of a convolution from which tiles pay off."""
_MIN_MIX_WORK = 2**21
"""Likewise for mixing the channels of a convolution to a single channel first."""
_MIN_CLOSE = 2**12
"""Pixels of a map from which channels are put side by side: upsampling and small convolutions are then up to 1.5 times faster."""
_FEW_CHANNELS = 81
"""Pairs of channels up to which gradients of a small map's convolution are convolutions: up to 4 times faster than torch's."""
_SMALL_KERNEL = 25
"""Taps up to which torch's gradient of a kernel is the faster one."""
_MIN_ROW = 64
"""Taps of a row kernel from which row transforms pay off."""


def generate_kernels(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Return what `layers` make of `x`, `(M, 1, 32, 32)` to `(M, taps, out, in)`."""
    place, count = 0, len(layers)
    while place < count:
        layer = layers[place]
        if not torch.is_grad_enabled() and (doublings := _wide_end(layers, place, x)):
            end = place + 3 * doublings
            x, place = _widened(x, layers[place:end], layers[end]), end + 1
            continue
        if isinstance(layer, nn.Upsample) and x.shape[-2] * x.shape[-1] >= _MIN_CLOSE:
            x = x.contiguous(memory_format=torch.channels_last)
        after = layers[place + 1] if place + 1 < count else None
        if isinstance(layer, nn.Conv2d) and isinstance(after, nn.LeakyReLU) and _tiled(layer, x.shape[-2] * x.shape[-1], x):
            x, place = convolve_tiles(x, layer.weight, layer.bias, slope=after.negative_slope), place + 2
            continue
        if isinstance(layer, nn.Conv2d) and layer.padding == (2, 2) and layer.out_channels == 1 and _mixes(layer, x):
            x = mix_and_shift(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d) and layer.kernel_size[0] == 1 and layer.kernel_size[1] >= _MIN_ROW:
            x = convolve_rows(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d) and torch.is_grad_enabled() and _few_channels(layer, x):
            x = convolve_few(x, layer.weight, layer.bias, padding=(int(layer.padding[0]), int(layer.padding[1])))
        else:
            x = layer(x)
        place += 1
    return x


def _wide_end(layers: nn.Sequential, place: int, x: Tensor) -> int:
    """Return how many doublings in width, each with a large convolution, come here before a convolution to one channel."""
    count, pixels = 0, x.shape[-2] * x.shape[-1]
    while place + 3 * count + 3 < len(layers):
        up, wide, _, last = layers[place + 3 * count : place + 3 * count + 4]
        pixels *= 2
        if not (isinstance(up, nn.Upsample) and up.scale_factor == (1.0, 2.0)):
            return 0
        if not (isinstance(wide, nn.Conv2d) and _tiled(wide, pixels, x)):
            return 0
        count += 1
        if isinstance(last, nn.Conv2d):
            return count if last.out_channels == 1 and last.padding == (2, 2) else 0
    return 0


def _tiled(layer: nn.Conv2d, pixels: int, x: Tensor) -> bool:
    work = layer.in_channels * layer.out_channels * pixels
    return layer.padding == (2, 2) and work >= MIN_TAP_WORK and not _autocasts(x)


def _mixes(layer: nn.Conv2d, x: Tensor) -> bool:
    return layer.in_channels * x.shape[-2] * x.shape[-1] >= _MIN_MIX_WORK and not _autocasts(x)


def _few_channels(layer: nn.Conv2d, x: Tensor) -> bool:
    pairs, pixels = layer.in_channels * layer.out_channels, x.shape[-2] * x.shape[-1]
    return pairs <= _FEW_CHANNELS and pixels <= _MIN_CLOSE and not _autocasts(x)


def _autocasts(x: Tensor) -> bool:
    kind = x.device.type  # a meta tensor, which has shapes alone, knows no autocast
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def convolve_few(x: Tensor, weight: Tensor, bias: Tensor | None, *, padding: tuple[int, int]) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=padding)`, made for gradients of few channels and large kernels.

    Args:
        x: `(M, C, H, W)`.
        weight: `(O, C, h, w)`.
        bias: `(O,)` or None.
        padding: rows and columns of zeros, at most h - 1 and w - 1.
    """
    return _FewChannels.apply(x, weight, bias, padding)


class _FewChannels(torch.autograd.Function):
    """The gradient of the input is a convolution with the turned kernel; that of a large kernel one of input by gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, bias, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (above, left), (height, width) = ctx.padding, weight.shape[2:]
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            margin = (width - 1 - left, width - 1 - left, height - 1 - above, height - 1 - above)
            of_x = F.conv2d(F.pad(grad, margin), weight.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            if height * width > _SMALL_KERNEL:
                padded = F.pad(x, (left, left, above, above))
                of_weight = F.conv2d(padded.transpose(0, 1), grad.transpose(0, 1)).transpose(0, 1)
            else:
                of_weight = conv2d_weight(x, weight.shape, grad, padding=ctx.padding)  # type: ignore[no-untyped-call]
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def convolve_tiles(x: Tensor, weight: Tensor, bias: Tensor | None, *, slope: float = 1.0) -> Tensor:
    """Return leaky ReLU of `F.conv2d(x, weight, bias, padding=k // 2)` for square odd kernels.

    Args:
        x: `(M, C, H, W)`, float32.
        weight: `(O, C, k, k)`, k < 16.
        bias: `(O,)` or None.
        slope: of the leaky ReLU; 1 = none.
    """
    blocks = kernel_blocks(weight)
    offset = weight.new_zeros(weight.shape[0]) if bias is None else bias
    parts = [_Tiles.apply(one, blocks, offset, weight.shape[-1], slope) for one in _maps(x)]
    return torch.stack(parts) if len(parts) > 1 else parts[0][None]


def _maps(x: Tensor) -> Sequence[Tensor]:
    """Return the M maps of a batch; the gradient of a single one is not copied, as `unbind` would."""
    return [x.squeeze(0)] if len(x) == 1 else x.unbind()


def kernel_blocks(weight: Tensor) -> Tensor:
    """Return `(128, 2 O, 2 C)`: per frequency the real matrix of a product with the conjugate spectrum of `(O, C, k, k)`."""
    out, inside, k, _ = weight.shape
    fourier = _matrices(TILE - k + 1, weight.dtype, weight.device)
    rows = fourier.rows[:, :k] @ weight.permute(2, 3, 0, 1).reshape(k, -1)
    columns = fourier.columns.view(TILE // 2, 2 * TILE, 2, TILE)[..., :k].flatten(2)
    spectrum = torch.bmm(columns, rows.view(TILE // 2, 2 * k, -1)).view(-1, 2, out, inside)
    real, imaginary = spectrum.unbind(1)
    complex_ = torch.ones(len(real), 1, 1, dtype=weight.dtype, device=weight.device)
    complex_[[0, TILE // 2]] = 0  # these two hold two real frequencies each
    cross = complex_ * imaginary
    corner = torch.lerp(imaginary, real, complex_)
    return torch.cat((torch.cat((real, cross), 2), torch.cat((-cross, corner), 2)), 1)


class _Fourier(NamedTuple):
    """Real Fourier matrices of a tile, whose frequencies lie in 128 pairs of numbers (real, imaginary).

    A real row transform gives 8 pairs of rows. In the first, which holds two real rows, the columns of each row are transformed
    as real numbers; in the others the columns of the pair as complex ones.
    """

    rows: Tensor
    """`(16, 16)`."""
    columns: Tensor
    """`(8, 32, 32)`: per pair of rows, (frequency, part) from (part, column)."""
    rows_back: Tensor
    """`(step, 16)`: what is valid of the inverse."""
    columns_back: Tensor
    """`(8, 2 step, 32)`."""


@functools.lru_cache(maxsize=16)
def _matrices(step: int, dtype: torch.dtype, device: torch.device) -> _Fourier:
    """Return the matrices of tiles of which `step` rows and columns are valid."""
    half = TILE // 2
    angles = 2 * math.pi / TILE * torch.outer(torch.arange(TILE), torch.arange(TILE)).double()
    rows = torch.stack((angles.cos()[:half], -angles.sin()[:half]), 1).flatten(0, 1)
    rows[1] = angles[half].cos()
    both = torch.stack((torch.cat((angles.cos(), angles.sin()), 1), torch.cat((-angles.sin(), angles.cos()), 1)), 1)
    twice = torch.cat((F.pad(rows, (0, TILE)), F.pad(rows, (TILE, 0))))
    columns = torch.stack([twice, *[both.flatten(0, 1)] * (half - 1)])
    rows_back = torch.linalg.inv(rows)[:step]
    columns_back = torch.linalg.inv(columns).view(half, 2, TILE, 2 * TILE)[:, :, :step].flatten(1, 2)
    with torch.inference_mode(False):
        return _Fourier(*(matrix.to(device, dtype).contiguous() for matrix in (rows, columns, rows_back, columns_back)))


def _rows_of_tiles(height: int, width: int, step: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of the tiles that are done at a time."""
    rows = step * max(1, _TILES_AT_A_TIME // -(-width // step))
    for first in range(0, height, rows):
        yield first, min(rows, height - first)


def _tiles(x: Tensor, first: int, count: int, k: int) -> Tensor:
    """Return the tiles of rows `first` to `first + count` of `(C, H, W)`, with margins, as a view `(16, 16, C, down, across)`."""
    step, pad, (_, height, width) = TILE - k + 1, k // 2, x.shape
    last = first + -(-count // step) * step + pad
    top, bottom = max(first - pad, 0), min(last, height)
    right = -(-width // step) * step - width + pad
    padded = F.pad(x[:, top:bottom], (pad, right, top - first + pad, last - bottom))
    return padded.unfold(1, TILE, step).unfold(2, TILE, step).permute(3, 4, 0, 1, 2)


def _cut(x: Tensor, first: int, count: int, k: int) -> Tensor:
    """Return the same as `(16, 16, C, N)`."""
    return _tiles(x, first, count, k).flatten(3)


def _spectra(tiles: Tensor, step: int) -> Tensor:
    """Return the frequencies `(128, 2 C, N)` of tiles `(16, 16, C, N)`."""
    fourier = _matrices(step, tiles.dtype, tiles.device)
    rows = fourier.rows @ tiles.reshape(TILE, -1)
    return torch.bmm(fourier.columns, rows.view(TILE // 2, 2 * TILE, -1)).view(TILE * TILE // 2, -1, tiles.shape[3])


def _valid(spectra: Tensor, count: int, width: int, step: int) -> Tensor:
    """Return the rows `(O, count, width)` of which these are the frequencies `(128, 2 O, N)`."""
    fourier = _matrices(step, spectra.dtype, spectra.device)
    columns = torch.bmm(fourier.columns_back, spectra.view(TILE // 2, 2 * TILE, -1))
    tiles = (fourier.rows_back @ columns.view(TILE, -1)).view(step, step, spectra.shape[1] // 2, -1, -(-width // step))
    return tiles.permute(2, 3, 0, 4, 1).reshape(tiles.shape[2], -1, step * tiles.shape[4])[:, :count, :width]


def _activated(rows: Tensor, offset: Tensor, slope: float) -> Tensor:
    """Return leaky ReLU of rows `(O, H, W)` plus `offset` `(O,)`, in their place."""
    rows += offset[:, None, None]
    return F.leaky_relu_(rows, slope) if slope != 1 else rows


class _Tiles(torch.autograd.Function):
    """`convolve_tiles` of one map `(C, H, W)`; backward transforms tiles again in place of keeping them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor, offset: Tensor, k: int, slope: float) -> Tensor:
        (_, height, width), step = x.shape, TILE - k + 1
        y = x.new_empty(blocks.shape[1] // 2, height, width)
        for first, count in _rows_of_tiles(height, width, step):
            mixed = torch.bmm(blocks, _spectra(_cut(x, first, count, k), step))
            y[:, first : first + count] = _activated(_valid(mixed, count, width, step), offset, slope)
        ctx.save_for_backward(x, blocks, y)
        ctx.k, ctx.slope = k, slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, blocks, y = ctx.saved_tensors
        k, (_, height, width) = ctx.k, y.shape
        step, pad = TILE - k + 1, k // 2
        fourier = _matrices(step, x.dtype, x.device)
        wants_x, wants_blocks, wants_offset = ctx.needs_input_grad[:3]
        down, across = -(-height // step) * step, -(-width // step) * step
        into_x = x.new_zeros(x.shape[0], down + TILE - step, across + TILE - step) if wants_x else None
        into_blocks = torch.zeros_like(blocks) if wants_blocks else None
        into_offset = y.new_zeros(y.shape[0]) if wants_offset else None
        for first, count in _rows_of_tiles(height, width, step):
            into_y = gradients[0][:, first : first + count]
            if ctx.slope != 1:
                into_y = torch.ops.aten.leaky_relu_backward(into_y, y[:, first : first + count], ctx.slope, True)
            if into_offset is not None:
                into_offset += into_y.sum((1, 2))
            whole = F.pad(into_y, (0, across - width, 0, -count % step))
            tiles = whole.unfold(1, step, step).unfold(2, step, step).permute(3, 4, 0, 1, 2).reshape(step, -1)
            columns = (fourier.rows_back.T @ tiles).view(TILE // 2, 2 * step, -1)
            mixed = torch.bmm(fourier.columns_back.mT, columns).view(*blocks.shape[:2], -1)
            if into_blocks is not None:
                into_blocks.baddbmm_(mixed, _spectra(_cut(x, first, count, k), step).mT)
            if into_x is not None:
                columns = torch.bmm(fourier.columns.mT, torch.bmm(blocks.mT, mixed).view(TILE // 2, 2 * TILE, -1))
                windows = (fourier.rows.T @ columns.view(TILE, -1)).view(TILE, TILE, x.shape[0], -1, across // step)
                _add_windows(into_x[:, first : first + windows.shape[3] * step + TILE - step], windows, step)
        if into_x is not None:
            into_x = into_x[:, pad : pad + height, pad : pad + width]
        return into_x, into_blocks, into_offset, None, None


def _add_windows(rows: Tensor, windows: Tensor, step: int) -> None:
    """Add `(16, 16, C, down, across)` to `rows` `(C, step down + 16 - step, step across + 16 - step)`, `step` apart."""
    down, across = windows.shape[3:]
    for i in range(0, TILE, step):
        for j in range(0, TILE, step):
            high, wide = min(step, TILE - i), min(step, TILE - j)
            place = rows[:, i : i + down * step, j : j + across * step]
            place.unfold(1, high, step).unfold(2, wide, step).add_(windows[i : i + high, j : j + wide].permute(2, 3, 4, 0, 1))


class _Doubling(NamedTuple):
    """A tiled convolution of maps doubled in width, and the slope of the leaky ReLU after it."""

    blocks: Tensor
    offset: Tensor
    k: int
    slope: float


def _doubling(layer: nn.Module, activation: nn.Module) -> _Doubling:
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(activation, nn.LeakyReLU)
    offset = layer.weight.new_zeros(layer.out_channels) if layer.bias is None else layer.bias
    return _Doubling(kernel_blocks(layer.weight), offset, layer.kernel_size[0], activation.negative_slope)


class _DoubledRows:
    """Rows of a convolution of a map doubled in width, made when they are asked for, in order; only the last are held.

    Args:
        source: returns rows `[first, last)` of the narrow map, `(C, last - first, W)`.
        doubling: what is made of them.
        height, width: of the result.
    """

    def __init__(self, source: Callable[[int, int], Tensor], doubling: _Doubling, *, height: int, width: int) -> None:
        self.source, self.height, self.width = source, height, width
        self.blocks, self.offset, self.k, self.slope = doubling
        self.step = TILE - self.k + 1
        self.held: list[Tensor] = []
        self.first = self.made = 0

    def __call__(self, first: int, last: int) -> Tensor:
        """Return rows `[first, last)`, `(O, last - first, width)`; rows before `first` cannot be had again."""
        if first < self.made:
            self.held = [self.held[0][:, first - self.first :]]
        else:
            self.held.clear()
        while self.made < last:
            count = min(self.step, self.height - self.made)
            self.held.append(self._made(self.made, count))
            self.made += count
        if len(self.held) > 1:
            self.held = [torch.cat(self.held, 1)]
        self.first = first
        return self.held[0][:, : last - first]

    def _made(self, first: int, count: int) -> Tensor:
        """Return one row of tiles, of which a few at a time are transformed."""
        pad = self.k // 2
        top = max(first - pad, 0)
        narrow_HCW = self.source(top, min(first + count + pad, self.height)).permute(1, 0, 2)
        wide_HCW = F.interpolate(narrow_HCW, scale_factor=2, mode="linear", align_corners=True)
        tiles = _tiles(wide_HCW.permute(1, 0, 2), first - top, count, self.k)
        del wide_HCW  # tiles are cut from a padded copy
        rows = tiles.new_empty(len(self.offset), count, self.width)
        across = tiles.shape[4]
        most = -(-across // -(-across // _TILES_AT_A_TIME))
        for left in range(0, across, most):
            some = tiles[..., left : left + most]
            place = slice(self.step * left, min(self.step * (left + some.shape[4]), self.width))
            mixed = torch.bmm(self.blocks, _spectra(some.flatten(3), self.step))
            valid = _valid(mixed, count, place.stop - place.start, self.step)
            rows[:, :, place] = _activated(valid, self.offset, self.slope)
        return rows


def _widened(x: Tensor, layers: nn.Sequential, last: nn.Module) -> Tensor:
    """Return `last` of what `layers` make of `x` without gradients, band by band: none of their maps is ever whole.

    Args:
        x: `(M, C, H, W)`.
        layers: any number of doublings in width, tiled convolutions and leaky ReLUs, in turns.
        last: convolution to one channel.
    """
    assert isinstance(last, nn.Conv2d)
    doublings = [_doubling(layers[place + 1], layers[place + 2]) for place in range(0, len(layers), 3)]
    height, width, side = x.shape[-2], x.shape[-1] * 2 ** len(doublings), last.kernel_size[0]
    taps, margin = _tap_rows(last.weight), side // 2
    band = TILE - doublings[-1].k + 1
    found = []
    for one in x:
        rows = _band_source(one, doublings)
        y = one.new_zeros(height + 2 * margin, width + 2 * margin)
        for first in range(0, height, band):
            count = min(band, height - first)
            maps = (taps @ rows(first, first + count).flatten(1)).view(-1, count, width)
            for tap in range(side * side):
                row, left = first + tap // side, tap % side
                y[row : row + count, left : left + width] += maps[tap]
        y = y[margin : margin + height, margin : margin + width]
        found.append(y[None] if last.bias is None else y[None] + last.bias[:, None, None])
    return torch.stack(found)


def _band_source(x: Tensor, doublings: Sequence[_Doubling]) -> Callable[[int, int], Tensor]:
    """Return a function from `[first, last)` to those rows of what `doublings` make of a map `(C, H, W)`; see `_widened`."""
    source: Callable[[int, int], Tensor] = lambda first, last: x[:, first:last]  # noqa: E731
    for count, doubling in enumerate(doublings, 1):
        source = _DoubledRows(source, doubling, height=x.shape[-2], width=x.shape[-1] * 2**count)
    return source


def mix_and_shift(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=k // 2)` for few outputs: one matrix product for all taps, then shifts.

    Args:
        x: `(M, C, H, W)`.
        weight: `(O, C, k, k)`.
        bias: `(O,)` or None.
    """
    taps = _tap_rows(weight)
    rows = [one.permute(1, 0, 2) for one in _maps(x)]
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
