"""Current features read from memory: rotary self- and cross-attention (spec section 2.2)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sam2_rcms.model.attention import mix
from sam2_rcms.model.position import rotary_table, rotate, rotate_
from vos_core.ops.attention import attend
from vos_core.ops.linear import linear

CHANNELS, MEMORY, HIDDEN = 256, 64, 2048
TOKENS_AT_ONCE = 1024
"""Tokens that go through a MLP together where no gradient is wanted."""


def through(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return the layer's output for `(B, L, C)`."""
    return linear(x, layer.weight, layer.bias)


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

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *, unplaced: int = 0, turned: Tensor | None = None) -> Tensor:
        """Return `(B, L, 256)`.

        Args:
            query: `(B or 1, L, 256)`, a square grid.
            key: `(B, K, C)`: grids of L, one after the other, then `unplaced` tokens that are not turned.
            value: `(B, K, C)`.
            unplaced: number of the last keys without a place.
            turned: `(B, K, 256)` if keys are at hand projected and turned; then `key` is not read.
        """
        q, k = self.project(query, key, unplaced=unplaced, turned=turned)
        v = through(self.v_proj, value)
        q = q.to(v.dtype).expand(v.shape[0], -1, -1)
        rate = self.dropout if self.training else 0.0
        out = attend(q.unsqueeze(1), k.to(v.dtype).unsqueeze(1), v.unsqueeze(1), dropout=rate)
        return through(self.out_proj, out.squeeze(1))

    def project(self, query: Tensor, key: Tensor, *, unplaced: int, turned: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return turned queries `(B or 1, L, 256)` in float32 and keys `(B, K, 256)` in the dtype of the layer."""
        side = round(query.shape[1] ** 0.5)
        table = rotary_table(side, CHANNELS, query.device)
        if turned is not None:
            return rotate_(through(self.q_proj, query).float(), table), turned
        q, k = through(self.q_proj, query), through(self.k_proj, key)
        placed = k.shape[1] - unplaced
        if not torch.is_grad_enabled():
            # In place, a grid at a time: keys of seven memories are 29 MB an object, and are read once.
            for grid in torch.split(k[:, :placed], query.shape[1], 1):
                if k.dtype == torch.float32:
                    rotate_(grid, table)
                else:
                    grid.copy_(rotate_(grid.float(), table))
            return rotate_(q.float(), table), k
        q = rotate(q, table)
        if placed == 0:
            return q, k.float()
        turned = rotate(k[:, :placed], table)
        return q, torch.cat((turned, k[:, placed:].float()), 1) if unplaced else turned

    def read_late(self, query: Tensor, key: Tensor, value: Tensor, *, unplaced: int = 0, turned: Tensor | None = None) -> Tensor:
        """Return the same as `forward` in evaluation, with values projected after they are mixed.

        Mixing is linear and the weights of a query sum to 1, so `softmax(q k) (m W + b) = (softmax(q k) m) W + b`: with 64
        channels instead of 256 the second product costs a quarter. Exact up to rounding.
        """
        q, k = self.project(query, key, unplaced=unplaced, turned=turned)
        mixed = mix(q * CHANNELS**-0.5, k, value)
        return through(self.out_proj, through(self.v_proj, mixed))


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

    def forward(self, x: Tensor, memory: Tensor, placed_memory: Tensor, *, pointers: int) -> Tensor:
        """Return `(B, L, 256)` of `(B or 1, L, 256)`; `placed_memory` is `memory` plus positions, `(B, K, 64)`."""
        return self.look_back(self.look_around(x), memory, placed_memory, pointers=pointers, late_values=False)

    def look_around(self, x: Tensor) -> Tensor:
        """Return `x` after the self-attention: no memory is read yet."""
        normed = self.norm1(x)
        if torch.is_autocast_enabled(x.device.type):
            normed = normed.to(torch.get_autocast_dtype(x.device.type))  # once, instead of in each of three projections
        return x + self.dropout1(self.self_attn(normed, normed, normed))

    def look_back(
        self, x: Tensor, memory: Tensor, placed_memory: Tensor, *, pointers: int, late_values: bool, turned: Tensor | None = None
    ) -> Tensor:
        """Return the layer's output for `x` that has looked around.

        Args:
            x: `(B or 1, L, 256)`.
            memory: `(B, K, 64)`.
            placed_memory: `memory` plus positions.
            pointers: how many of the last memory tokens have no place in the grid.
            late_values: see `MemoryAttention.late_values`.
            turned: `(B, K, 256)` if keys are at hand projected and turned.
        """
        cross = self.cross_attn_image
        read = cross.read_late if late_values else cross.forward
        x = x + self.dropout2(read(self.norm2(x), placed_memory, memory, unplaced=pointers, turned=turned))
        if torch.is_grad_enabled():
            return x + self._mlp(x)
        for part in torch.split(x, TOKENS_AT_ONCE, 1):  # what is between the layers stays in the cache
            part += self._mlp(part)
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = linear(self.norm3(x), self.linear1.weight, self.linear1.bias, activation="relu")
        return self.dropout3(linear(self.dropout(hidden), self.linear2.weight, self.linear2.bias))


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

    def forward(
        self,
        current: Tensor,
        current_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        *,
        pointers: int,
        keys: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the features conditioned on memory, `(B, L, 256)`.

        What does not depend on the memory (up to the first layer's self-attention) is computed once for all objects when
        `current` has batch 1.

        Args:
            current: `(B or 1, L, 256)`.
            current_pos: of the same shape or batch 1; a tenth of it is added once.
            memory: `(B, K, 64)`.
            memory_pos: `(B or 1, K, 64)`.
            pointers: how many of the last memory tokens have no place in the grid.
            keys: each layer's keys `(B, K - pointers, 256)` of the tokens with a place, if they are at hand (`memory_keys`
                plus `position_keys`); not with gradients.
        """
        x = current + 0.1 * current_pos
        if torch.is_grad_enabled():
            placed = memory + memory_pos
            for layer in self._layers():
                run = functools.partial(layer, pointers=pointers)
                x = checkpoint(run, x, memory, placed, use_reentrant=False) if self.checkpointing else run(x, memory, placed)
        else:
            x = self._read(x, memory, memory_pos, pointers, keys)
        normed: Tensor = self.norm(x)
        return normed

    def _read(self, x: Tensor, memory: Tensor, memory_pos: Tensor, pointers: int, keys: Sequence[Tensor] | None) -> Tensor:
        late = self.late_values and not self.training and x.device.type == "cpu"
        # A CPU is as fast with one object, whose tensors stay in the cache, as with all of them, whose do not.
        at_once = 1 if x.device.type == "cpu" else memory.shape[0]
        first, *others = self._layers()
        x = first.look_around(x)
        found = []
        for start in range(0, memory.shape[0], at_once):
            some = slice(start, start + at_once)
            own = x if x.shape[0] == 1 else x[some]
            placed = memory[some] + (memory_pos if memory_pos.shape[0] == 1 else memory_pos[some])
            for index, layer in enumerate((first, *others)):
                turned = None if keys is None else self._all_keys(index, keys[index][some], placed, pointers)
                own = layer.look_around(own) if index else own
                own = layer.look_back(own, memory[some], placed, pointers=pointers, late_values=late, turned=turned)
            found.append(own)
        return torch.cat(found) if len(found) > 1 else found[0]

    def _all_keys(self, index: int, keys: Tensor, placed: Tensor, pointers: int) -> Tensor:
        """Return a layer's keys with those of the pointers after them."""
        last = self._key_projections()[index](placed[:, placed.shape[1] - pointers :])
        return torch.cat((keys, last.to(keys.dtype)), 1)

    def memory_keys(self, memory: Tensor) -> Tensor:
        """Return every layer's keys `(4, L, 256)` of one spatial memory `(L, 64)`, without its positions.

        Projecting and turning are linear, so keys are the sum of these and `position_keys` (spec section 8.4).
        """
        return self._turned([F.linear(memory.float(), layer.weight.float()) for layer in self._key_projections()])

    def position_keys(self, position: Tensor) -> Tensor:
        """Return what the positions `(L, 64)` of a spatial memory add to its keys `(4, L, 256)`, biases included."""
        layers = self._key_projections()
        return self._turned([F.linear(position, layer.weight.float(), layer.bias.float()) for layer in layers])

    def _layers(self) -> list[MemoryAttentionLayer]:
        return [layer for layer in self.layers if isinstance(layer, MemoryAttentionLayer)]

    def _key_projections(self) -> list[nn.Linear]:
        return [layer.cross_attn_image.k_proj for layer in self._layers()]

    def _turned(self, keys: list[Tensor]) -> Tensor:
        table = rotary_table(round(keys[0].shape[0] ** 0.5), CHANNELS, keys[0].device)
        return rotate_(torch.stack(keys).float(), table)
