"""Attention between a few prompt tokens and the image, both ways (spec section 2.5)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.model.layers import MLP

CHANNELS, HEADS, HIDDEN = 256, 8, 2048


class Attention(nn.Module):
    """Multi-head attention whose inner width is 256 / `downsample`."""

    def __init__(self, *, downsample: int = 1) -> None:
        super().__init__()
        inner = CHANNELS // downsample
        self.q_proj = nn.Linear(CHANNELS, inner)
        self.k_proj = nn.Linear(CHANNELS, inner)
        self.v_proj = nn.Linear(CHANNELS, inner)
        self.out_proj = nn.Linear(inner, CHANNELS)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `(B, Lq, 256)` of `(B, Lq, 256)` and twice `(B, Lk, 256)`."""
        parts = (
            projection(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, query), (self.k_proj, key), (self.v_proj, value))
        )
        out = F.scaled_dot_product_attention(*parts)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens; norms follow.

    Args:
        first: the first block's self-attention has no position codes and replaces the tokens.
    """

    def __init__(self, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention()
        self.norm1 = nn.LayerNorm(CHANNELS)
        self.cross_attn_token_to_image = Attention(downsample=2)
        self.norm2 = nn.LayerNorm(CHANNELS)
        self.mlp = MLP((CHANNELS, HIDDEN, CHANNELS))
        self.norm3 = nn.LayerNorm(CHANNELS)
        self.norm4 = nn.LayerNorm(CHANNELS)
        self.cross_attn_image_to_token = Attention(downsample=2)

    def forward(self, tokens: Tensor, image: Tensor, token_pe: Tensor, image_pe: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `(B, P, 256)` and image `(B, L, 256)`."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens)
        else:
            placed = tokens + token_pe
            tokens = tokens + self.self_attn(placed, placed, tokens)
        tokens = self.norm1(tokens)
        image_placed = image + image_pe
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_pe, image_placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(image_placed, tokens + token_pe, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two blocks and a last look of the tokens at the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(first=index == 0) for index in range(2))
        self.final_attn_token_to_image = Attention(downsample=2)
        self.norm_final_attn = nn.LayerNorm(CHANNELS)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens `(B, P, 256)` and image `(B, L, 256)`; `image_pe` is `(1, L, 256)`."""
        token_pe = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, token_pe, image_pe)
        attended = self.final_attn_token_to_image(tokens + token_pe, image + image_pe, image)
        return self.norm_final_attn(tokens + attended), image
