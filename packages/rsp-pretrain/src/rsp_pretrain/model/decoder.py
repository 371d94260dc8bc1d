"""The decoder's block: queries read a fixed memory, then each other."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rsp_pretrain.model.vit import NORM_EPS, Attention, Mlp, merge_heads, split_heads
from vos_core.ops.attention import attend
from vos_core.ops.linear import linear


class CrossAttention(nn.Module):
    """Attention of queries to a memory; keys and values come from one fused projection, order k, v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.kv = nn.Linear(dim, 2 * dim)
        self.q = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, norm: nn.LayerNorm, places: Tensor | None = None) -> Tensor:
        """Return what each query reads, `(B, Q, D)`.

        Args:
            x: queries `(B, Q, D)`, or `(1, Q, D)` if they are the same for the whole batch.
            memory: `(B, M, D)`, standardised over channels but without `norm`'s gain and bias; with `places`, `(R, D)`.
            norm: the memory's norm; kv(gain * x + bias) is computed as (kv gain) x + (kv bias), so that the standardisation,
                the same in every block, is done once.
            places: int64 `(B, M)`: which row of `memory` each token is, where tokens repeat; each is then projected once.
        """
        weight = self.kv.weight * norm.weight
        bias = self.kv.bias + self.kv.weight @ norm.bias
        both = linear(memory, weight, bias)
        key, value = split_heads(both if places is None else F.embedding(places, both), 2, self.heads)
        (query,) = split_heads(linear(x, self.q.weight, self.q.bias), 1, self.heads)
        query = query.expand(len(key), -1, -1, -1)
        return linear(merge_heads(attend(query, key, value)), self.proj.weight, self.proj.bias)


class DecoderBlock(nn.Module):
    """Cross-attention to the memory, self-attention, perceptron, each before a residual sum.

    The numbers in the names have gaps: checkpoints have no norm2 and no mlp1.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm_kv1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.cattn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm4 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp2 = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, memory: Tensor, places: Tensor | None = None) -> Tensor:
        """Return the queries after this block, `(B, Q, D)`.

        Args:
            x: queries `(B or 1, Q, D)`.
            memory: standardised memory `(B, M, D)`, see `standardised`, or `(R, D)` with `places`.
            places: see `CrossAttention`.
        """
        x = x + self.cattn(self.norm1(x), memory, self.norm_kv1, places)
        x = x + self.attn(self.norm3(x))
        return x + self.mlp2(self.norm4(x))


def standardised(memory: Tensor) -> Tensor:
    """Return the memory with zero mean and unit variance over channels."""
    return F.layer_norm(memory, memory.shape[-1:], eps=NORM_EPS)
