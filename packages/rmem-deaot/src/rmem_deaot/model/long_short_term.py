"""The layers of AOT: long- and short-term attention, in the original form and in the recurrent one of the VOST code.

Yang, Wei and Yang, "Associating objects with transformers for video object segmentation"; order of operations as in spec
section 2.6.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rmem_deaot.model.attention import LocalAttention, MultiheadAttention, ProjectedRead, Size, to_map, to_tokens
from rmem_deaot.model.drop_path import DropPath
from rmem_deaot.model.layer import LayerInput, LayerMemory, Pending
from rmem_deaot.model.position import sine_position

HEADS = 8


class FilteredActivation(nn.Module):
    """Group norm, GELU and a 5 x 5 filter per channel.

    Args:
        channels: of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(32, channels)
        self.conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)

    def forward(self, tokens: Tensor, size: Size) -> Tensor:
        """Return tokens `(B, L, channels)`."""
        return to_tokens(self.conv(F.gelu(self.gn(to_map(tokens, size)))))


class LongShortTermLayer(nn.Module):
    """Self-attention, attention to both memories, feed-forward; each pre-normed around a shortcut.

    Args:
        channels: of the tokens.
        drop_path: chance that a sample skips the self-attention or the feed-forward, in training.
    """

    short_term_attn: LocalAttention | ProjectedRead

    def __init__(self, channels: int, *, drop_path: float = 0.1) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.self_attn = MultiheadAttention(channels, HEADS)
        self.norm2 = nn.LayerNorm(channels)
        self.linear_Q = nn.Linear(channels, channels)
        self.linear_V = nn.Linear(channels, channels)
        self.long_term_attn = ProjectedRead(channels, HEADS)
        self.short_term_attn = LocalAttention(channels, HEADS)
        self.norm3 = nn.LayerNorm(channels)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.activation = FilteredActivation(4 * channels)
        self.linear2 = nn.Linear(4 * channels, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, given: LayerInput) -> tuple[Tensor, Pending]:
        """Return new tokens `(B, L, C)` and what is left for the memory."""
        normed = self.norm1(tokens)
        placed = normed + sine_position(*given.size, tokens.shape[2], tokens.device).to(tokens.dtype)
        tokens = tokens + self.drop_path(self.self_attn(placed, placed, normed))
        normed = self.norm2(tokens)
        query = self.linear_Q(normed)
        read, pending = self._memories(query, normed, given)
        tokens = tokens + read
        hidden = self.activation(self.linear1(self.norm3(tokens)), given.size)
        return tokens + self.drop_path(self.linear2(hidden)), pending

    def _memories(self, query: Tensor, normed: Tensor, given: LayerInput) -> tuple[Tensor, Pending]:
        pending = Pending(query, normed)
        own = None if given.id_emb is None else self.write(pending, given.id_emb)
        short = own or given.short
        assert short is not None, "a frame that is no reference needs the memory of another one"
        assert isinstance(self.short_term_attn, LocalAttention)
        long = self.long_term_attn.projection(given.long(given.index, query, own))
        return long + self.short_term_attn.attend(query, short.short_key, short.short_value, given.size), pending

    def write(self, pending: Pending, id_emb: Tensor) -> LayerMemory:
        """Return the frame's memory once its identity embedding `(B, L, C)` is known."""
        value = self.linear_V(pending.value + id_emb)
        return LayerMemory(pending.key, value, pending.key, value)


class RecurrentLayer(LongShortTermLayer):
    """The VOST form: the short-term path is global and its memory is made of its own output.

    Args:
        channels: of the tokens.
        drop_path: see `LongShortTermLayer`.
    """

    def __init__(self, channels: int, *, drop_path: float = 0.1) -> None:
        super().__init__(channels, drop_path=drop_path)
        self.short_term_attn = ProjectedRead(channels, HEADS)
        self.linear_QMem = nn.Linear(channels, channels)
        self.linear_VMem = nn.Linear(channels, channels)
        self.linear_KMem = nn.Linear(channels, channels)  # unused, but part of every checkpoint
        self.norm4 = nn.LayerNorm(channels)

    def _memories(self, query: Tensor, normed: Tensor, given: LayerInput) -> tuple[Tensor, Pending]:
        own = None
        if given.id_emb is not None:
            value = self.linear_V(normed + given.id_emb)
            own = LayerMemory(query, value, query, value)
        short = own or given.short
        assert short is not None, "a frame that is no reference needs the memory of another one"
        assert isinstance(self.short_term_attn, ProjectedRead)
        key, value = self.norm4(short.short_key + query), self.norm4(short.short_value + normed)
        recurrent = self.short_term_attn.attend(query, key, value)
        long = self.long_term_attn.projection(given.long(given.index, query, own))
        return long + recurrent, Pending(query, normed, recurrent=recurrent)

    def write(self, pending: Pending, id_emb: Tensor) -> LayerMemory:
        """Return the frame's memory once its identity embedding `(B, L, C)` is known."""
        assert pending.recurrent is not None
        value = self.linear_V(pending.value + id_emb)
        short_key = self.linear_QMem(pending.recurrent)
        short_value = self.linear_VMem(pending.recurrent + id_emb)
        return LayerMemory(pending.key, value, short_key, short_value)
