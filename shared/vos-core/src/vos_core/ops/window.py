"""Local (windowed) attention: each pixel looks at the (2 m + 1)^2 cells around it. No compiled extension.

Letters: N batch, K = (2 m + 1)^2 window cells in row-major order, D channels of a head, H W pixels. Cell (i, j) of pixel p is
p + dilation * (i - m, j - m). Cells outside the image count as key 0 in `local_corr` and get no attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vos_core.errors import UsageError
from vos_core.ops import window_torch
from vos_core.ops.backend import backend_of, full_precision
from vos_core.ops.window_torch import Window


def local_corr(q: Tensor, k: Tensor, *, heads: int, max_dis: int, dilation: int = 1, scale: float | None = None) -> Tensor:
    """Return the similarity of each pixel with its window cells, `(N, heads, K, H, W)`; 0 for cells outside the image.

    Args:
        q: `(N, heads * D, H, W)`.
        k: like `q`.
        heads: attention heads.
        max_dis: m, cells on each side of the centre.
        dilation: pixels between cells.
        scale: multiplies `q`; None = 1 / sqrt(D).
    """
    window = _window(q, k, q, heads, max_dis, dilation, scale)
    return window.corr(window.by_head(q * window.scale), window.padded(k), 0, q.shape[2])


def local_readout(a: Tensor, v: Tensor, *, max_dis: int, dilation: int = 1) -> Tensor:
    """Return the window cells' values weighted by attention, `(N, heads * D, H, W)`; cells outside the image hold 0.

    Args:
        a: `(N, heads, K, H, W)`.
        v: `(N, heads * D, H, W)`.
        max_dis: m; K must be (2 m + 1)^2.
        dilation: pixels between cells.
    """
    window = _window(v, v, v, a.shape[1], max_dis, dilation, 1.0)
    _check_cells(a, v, window, "attention")
    return window.readout(a, window.padded(v), 0, v.shape[2]).flatten(1, 2)


def inside_window(height: int, width: int, *, max_dis: int, dilation: int = 1, device: torch.device | None = None) -> Tensor:
    """Return which window cells lie inside the image, bool `(K, H, W)`."""
    return Window(1, max_dis, dilation, 1.0).inside(height, width, range(height), device or torch.device("cpu"))


def local_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    heads: int,
    max_dis: int,
    dilation: int = 1,
    scale: float | None = None,
    bias: Tensor | None = None,
    value_bias: Tensor | None = None,
) -> Tensor:
    """Return soft-max attention over each pixel's window, `(N, heads * Dv, H, W)`, differentiable in every tensor.

    Equal to the soft-max of `local_corr` + bias over the cells inside the image, then `local_readout` plus the attention-
    weighted value bias, but without storing the attention: the backward pass computes it anew.

    Args:
        q: `(N, heads * D, H, W)`; computed in float32 whatever the dtype.
        k: like `q`.
        v: `(N, heads * Dv, H, W)`; the result has its dtype.
        heads: attention heads.
        max_dis: m, cells on each side of the centre.
        dilation: pixels between cells.
        scale: multiplies `q`; None = 1 / sqrt(D).
        bias: `(N, heads, K, H, W)`, added to the similarities (AOT's relative position).
        value_bias: `(heads, Dv, K)`, added to the values of a cell (AOT).
    """
    window = _window(q, k, v, heads, max_dis, dilation, scale)
    if bias is not None:
        _check_cells(bias, q, window, "bias")
    if value_bias is not None and value_bias.shape != (heads, v.shape[1] // heads, window.side**2):
        raise UsageError(
            f"local attention got a value bias of shape {tuple(value_bias.shape)}",
            expected=f"{(heads, v.shape[1] // heads, window.side**2)}",
        )
    with full_precision(q):
        out: Tensor = _LocalAttention.apply(q, k, v, bias, value_bias, window)
    return out


class _LocalAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, value_bias: Tensor | None, window: Window
    ) -> Tensor:
        given = (q, k, v, bias, value_bias)
        triton = backend_of("local_attention", q) == "triton"
        q32, k32, v32, bias32, value_bias32 = (
            None if x is None else x.float().contiguous() if triton else x.float() for x in given
        )
        assert q32 is not None and k32 is not None and v32 is not None
        log_sum: Tensor | None = None
        if triton:
            from vos_core.ops.kernels.window import forward

            q32, k32, v32 = q32.contiguous(), k32.contiguous(), v32.contiguous()
            bias32, value_bias32 = (None if x is None else x.contiguous() for x in (bias32, value_bias32))
            out, log_sum = forward(window, q32, k32, v32, bias32, value_bias32)
        else:
            out = window_torch.forward(window, q32, k32, v32, bias32, value_bias32)
        ctx.window, ctx.dtypes = window, [None if x is None else x.dtype for x in given]
        ctx.save_for_backward(out, log_sum, q32, k32, v32, bias32, value_bias32)
        return out.to(v.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        out, log_sum, *given = ctx.saved_tensors
        grad = grads[0].float().contiguous()
        if log_sum is not None:
            from vos_core.ops.kernels.window import backward

            found = backward(ctx.window, grad, out, log_sum, *given)
        else:
            found = window_torch.backward(ctx.window, grad, out, *given)
        return (*(None if x is None else x.to(dtype) for x, dtype in zip(found, ctx.dtypes, strict=True)), None)


def _window(q: Tensor, k: Tensor, v: Tensor, heads: int, max_dis: int, dilation: int, scale: float | None) -> Window:
    if heads < 1 or max_dis < 0 or dilation < 1:
        raise UsageError(f"local attention got heads {heads}, max_dis {max_dis}, dilation {dilation}", expected="1, 0, 1 or more")
    if q.shape != k.shape or q.shape[0] != v.shape[0] or q.shape[2:] != v.shape[2:] or q.shape[1] % heads or v.shape[1] % heads:
        raise UsageError(
            f"local attention got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)} and {heads} heads",
            expected="(N, heads * D, H, W) of one batch and size, q like k",
        )
    return Window(heads, max_dis, dilation, 1 / math.sqrt(q.shape[1] // heads) if scale is None else scale)


def _check_cells(x: Tensor, image: Tensor, window: Window, name: str) -> None:
    expected = (image.shape[0], window.heads, window.side**2, *image.shape[2:])
    if x.shape != expected:
        raise UsageError(f"local attention got {name} of shape {tuple(x.shape)}", expected=f"(N, heads, K, H, W) = {expected}")
