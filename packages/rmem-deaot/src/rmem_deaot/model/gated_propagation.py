"""The layer of DeAOT: gated propagation of visual and identity tokens from long-term, short-term and own frame.

Yang and Yang, "Decoupling features in hierarchical propagation for video object segmentation"; order of operations as in spec
section 2.4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmem_deaot.model.attention import GatedLocalAttention, GatedOutput, Size, attend
from rmem_deaot.model.drop_path import DropPath
from rmem_deaot.model.layer import LayerInput, LayerMemory, Pending


class GatedSelfAttention(GatedOutput):
    """Gated attention of a frame with itself; the two halves have their own projections.

    Args:
        channels: of each half.
        key_channels: of queries and keys.
        expanded: of each half's values.
        dropout: see `DepthwiseConv`.
    """

    def __init__(self, channels: int, key_channels: int, expanded: int, *, dropout: float) -> None:
        super().__init__(2 * expanded, 2 * channels, dropout=dropout)
        self.linear_QK = nn.Linear(2 * channels, key_channels)
        self.linear_V1 = nn.Linear(channels, expanded)
        self.linear_V2 = nn.Linear(channels, expanded)
        self.linear_U1 = nn.Linear(channels, expanded)
        self.linear_U2 = nn.Linear(channels, expanded)

    def attend(self, visual: Tensor, identity: Tensor, size: Size) -> Tensor:
        """Return `(B, L, 2 * channels)` of two `(B, L, channels)`."""
        key = self.linear_QK(torch.cat((visual, identity), 2))
        read = attend(key, key, _silu(torch.cat((self.linear_V1(visual), self.linear_V2(identity)), 2)), heads=1)
        gate = _silu(torch.cat((self.linear_U1(visual), self.linear_U2(identity)), 2))
        return self(read, gate, size)


class GatedPropagationLayer(nn.Module):
    """One layer.

    Args:
        channels: of visual and of identity tokens.
        first: whether it is the first layer, which gets no identity tokens.
        dropout: of channels after each 5 x 5 filter, in training.
        drop_path: chance that a sample skips the self-attention, in training.
    """

    def __init__(self, channels: int, *, first: bool, dropout: float = 0.1, drop_path: float = 0.1) -> None:
        super().__init__()
        self.key_channels, expanded = channels // 2, 2 * channels
        self.norm1 = nn.LayerNorm(channels)
        self.linear_QV = nn.Linear(channels, self.key_channels + expanded)
        self.linear_U = nn.Linear(channels, expanded)
        self.linear_ID_V = nn.Linear(channels if first else 2 * channels, expanded)
        if not first:
            self.id_norm1 = nn.LayerNorm(channels)
            self.linear_ID_U = nn.Linear(channels, expanded)
        self.long_term_attn = GatedOutput(2 * expanded, 2 * channels, dropout=dropout)
        self.short_term_attn = GatedLocalAttention(self.key_channels, 2 * expanded, 2 * channels, dropout=dropout)
        self.norm2 = nn.LayerNorm(channels)
        self.id_norm2 = nn.LayerNorm(channels)
        self.self_attn = GatedSelfAttention(channels, self.key_channels, expanded, dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, visual: Tensor, identity: Tensor | None, given: LayerInput) -> tuple[Tensor, Tensor, Pending]:
        """Return new visual and identity tokens, and what is left for the memory; tokens are `(B, L, C)`."""
        normed = self.norm1(visual)
        key, value = self.linear_QV(normed).split((self.key_channels, self.linear_U.out_features), 2)
        key = key.contiguous()  # it is remembered; a view would hold the values' half as well
        pending = Pending(key, F.silu(value), None if identity is None else self.id_norm1(identity))
        own = None if given.id_emb is None else self.write(pending, given.id_emb)
        short = own or given.short
        assert short is not None, "a frame that is no reference needs the memory of another one"
        read = given.long(given.index, key, own)
        gate = _silu(self.linear_U(normed))
        # Not before the long read, whose temporaries are the largest.
        other = torch.ones_like(gate) if pending.identity is None else _silu(self.linear_ID_U(pending.identity))
        gate = torch.cat((gate, other), 2)
        out = self.long_term_attn(read, gate, given.size)
        del read
        out = out + self.short_term_attn.attend(key, short.short_key, short.short_value, gate, given.size)
        new_visual, new_identity = out.chunk(2, 2)
        visual = visual + new_visual
        identity = new_identity if identity is None else identity + new_identity
        out = self.self_attn.attend(self.norm2(visual), self.id_norm2(identity), given.size)
        new_visual, new_identity = out.chunk(2, 2)
        return visual + self.drop_path(new_visual), identity + self.drop_path(new_identity), pending

    def write(self, pending: Pending, id_emb: Tensor) -> LayerMemory:
        """Return the frame's memory once its identity embedding `(B, L, C)` is known."""
        source = id_emb if pending.identity is None else torch.cat((pending.identity, id_emb), 2)
        value = torch.cat((pending.value, F.silu(self.linear_ID_V(source))), 2)
        return LayerMemory(pending.key, value, pending.key, value)


def _silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x), in the place of `x` where no gradient needs it."""
    return F.silu(x, inplace=not torch.is_grad_enabled())
