"""Current features read from memory: rotary self- and cross-attention (spec section 2.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sam2_rcms.model.position import rotary_table, rotate

CHANNELS, MEMORY, HIDDEN = 256, 64, 2048
QUERIES_AT_ONCE = 512
"""Rows of the attention matrix in one piece on a CPU; 512 x 30,000 keys are 60 MB in float32."""


class RotaryAttention(nn.Module):
    """One head of 256 channels whose queries and keys are turned by their place in the grid.

    Args:
        source: channels of keys and values.
        dropout: on attention weights in training.
    """

    def __init__(self, source: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.q_proj = nn.Linear(CHANNELS, CHANNELS)
        self.k_proj = nn.Linear(source, CHANNELS)
        self.v_proj = nn.Linear(source, CHANNELS)
        self.out_proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, unplaced: int = 0) -> Tensor:
        """Return `(B, L, 256)`.

        Args:
            query: `(B or 1, L, 256)`, a square grid.
            key: `(B, K, C)`: grids of L, one after the other, then `unplaced` tokens that are not turned.
            value: `(B, K, C)`.
            unplaced: number of the last keys without a place.
        """
        q, k = self.project(query, key, unplaced=unplaced)
        v = self.v_proj(value)
        q = q.to(v.dtype).expand(v.shape[0], -1, -1)
        rate = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(q.unsqueeze(1), k.to(v.dtype).unsqueeze(1), v.unsqueeze(1), dropout_p=rate)
        projected: Tensor = self.out_proj(out.squeeze(1))
        return projected

    def project(self, query: Tensor, key: Tensor, *, unplaced: int) -> tuple[Tensor, Tensor]:
        """Return turned queries `(B or 1, L, 256)` and keys `(B, K, 256)`, float32."""
        side = round(query.shape[1] ** 0.5)
        table = rotary_table(side, CHANNELS, query.device)
        q, k = rotate(self.q_proj(query), table), self.k_proj(key)
        placed = k.shape[1] - unplaced
        if placed == 0:
            return q, k.float()
        turned = rotate(k[:, :placed], table)
        return q, torch.cat((turned, k[:, placed:].float()), 1) if unplaced else turned

    def read_late(self, query: Tensor, key: Tensor, value: Tensor, *, unplaced: int = 0) -> Tensor:
        """Return the same as `forward` in evaluation, with values projected after they are mixed.

        Mixing is linear and the weights of a query sum to 1, so `softmax(q k) (m W + b) = (softmax(q k) m) W + b`: with 64
        channels instead of 256 the second product costs a quarter. Exact up to rounding.
        """
        q, k = self.project(query, key, unplaced=unplaced)
        mixed = mix(q * CHANNELS**-0.5, k, value)
        projected: Tensor = self.out_proj(self.v_proj(mixed))
        return projected


def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return `softmax(query key^T) value`, `(B, L, C')`, a slab of queries at a time.

    Args:
        query: `(B or 1, L, C)`, already scaled.
        key: `(B, K, C)`.
        value: `(B, K, C')`.
    """
    half = torch.get_autocast_dtype(query.device.type) if torch.is_autocast_enabled(query.device.type) else torch.float32
    query, key, value = query.to(half), key.to(half), value.to(half)
    batch, length = key.shape[0], query.shape[1]
    out = value.new_empty(batch, length, value.shape[2])
    for item in range(batch):
        keys, values = key[item].T, value[item]
        rows = query[item if query.shape[0] > 1 else 0]
        for start in range(0, length, QUERIES_AT_ONCE):
            weights = (rows[start : start + QUERIES_AT_ONCE] @ keys).softmax(-1)
            torch.mm(weights, values, out=out[item, start : start + QUERIES_AT_ONCE])
    return out


class MemoryAttentionLayer(nn.Module):
    """Self-attention, attention to memory, MLP; norms come first."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.self_attn = RotaryAttention(CHANNELS, dropout=dropout)
        self.cross_attn_image = RotaryAttention(MEMORY, dropout=dropout)
        self.linear1 = nn.Linear(CHANNELS, HIDDEN)
        self.dropout = nn.Dropout(dropout)
        self.linear2 = nn.Linear(HIDDEN, CHANNELS)
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.norm3 = nn.LayerNorm(CHANNELS)
        self.dropout1 = nn.Dropout(dropout)
        self.dropout2 = nn.Dropout(dropout)
        self.dropout3 = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, placed_memory: Tensor, *, pointers: int, late_values: bool) -> Tensor:
        """Return `(B, L, 256)` of `(B or 1, L, 256)`; `placed_memory` is `memory` plus positions, `(B, K, 64)`."""
        normed = self.norm1(x)
        x = x + self.dropout1(self.self_attn(normed, normed, normed))
        cross = self.cross_attn_image
        read = cross.read_late if late_values else cross.forward
        x = x + self.dropout2(read(self.norm2(x), placed_memory, memory, unplaced=pointers))
        return x + self.dropout3(self.linear2(self.dropout(F.relu(self.linear1(self.norm3(x))))))


class MemoryAttention(nn.Module):
    """Four layers and a last norm.

    Args:
        dropout: in training.
    """

    late_values = True
    """Project values after mixing them where no gradient is wanted, on a CPU: faster, equal up to rounding."""
    checkpointing = False
    """Recompute each layer in the backward pass (training)."""

    def __init__(self, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MemoryAttentionLayer(dropout) for _ in range(4))
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, current: Tensor, current_pos: Tensor, memory: Tensor, memory_pos: Tensor, *, pointers: int) -> Tensor:
        """Return the features conditioned on memory, `(B, L, 256)`.

        What does not depend on the memory (up to the first layer's self-attention) is computed once for all objects when
        `current` has batch 1.

        Args:
            current: `(B or 1, L, 256)`.
            current_pos: of the same shape or batch 1; a tenth of it is added once.
            memory: `(B, K, 64)`.
            memory_pos: `(B or 1, K, 64)`.
            pointers: how many of the last memory tokens have no place in the grid.
        """
        x = current + 0.1 * current_pos
        placed = memory + memory_pos
        late = self.late_values and not torch.is_grad_enabled() and not self.training and not x.is_cuda
        for layer in self.layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(layer, x, memory, placed, pointers=pointers, late_values=False, use_reentrant=False)
            else:
                x = layer(x, memory, placed, pointers=pointers, late_values=late)
        normed: Tensor = self.norm(x)
        return normed
