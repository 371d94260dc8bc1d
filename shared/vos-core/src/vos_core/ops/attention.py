"""Soft-max attention by whatever is fastest on the device at hand; results differ by rounding only.

Torch's kernel never stores the weights and is the right one nearly everywhere. In bfloat16 on a CPU it is not in two cases: its
backward pass takes three times as long as plain products that keep the weights, and where the processor has no units that
multiply bfloat16 matrices, it takes up to twice as long as products over blocks of queries.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

SHORT = 512
"""Keys up to which training in bfloat16 on a CPU keeps attention weights."""
LONG = 1024
"""Keys from which on products over blocks are faster in bfloat16, without matrix units."""
_QUERIES = 256


@functools.lru_cache(maxsize=1)
def has_bf16_matrix_units() -> bool:
    """Say whether this CPU multiplies bfloat16 matrices in hardware made for it (AMX)."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public name for it
    return supported is not None and bool(supported())


def attend(query: Tensor, key: Tensor, value: Tensor, *, dropout: float = 0.0) -> Tensor:
    """Return `softmax(query key^T / sqrt(D)) value`, `(B, heads, L, Dv)`.

    Args:
        query: `(B, heads, L, D)`.
        key: `(B, heads, K, D)`.
        value: `(B, heads, K, Dv)`.
        dropout: of weights, in training.
    """
    training, keys = torch.is_grad_enabled(), key.shape[-2]
    stored = keys <= SHORT if training else keys >= LONG and not has_bf16_matrix_units()
    if not stored or dropout > 0 or query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
    scaled, turned = query * query.shape[-1] ** -0.5, key.transpose(-2, -1)
    parts = [scaled] if training else torch.split(scaled, _QUERIES, -2)
    mixed = [torch.softmax(part @ turned, -1).to(value.dtype) @ value for part in parts]
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, -2)
