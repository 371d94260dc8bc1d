"""Vision transformer pieces, and the encoder that pre-training and evaluation share.

Letters: B batch, L patches, D channels, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rsp_pretrain.model.position import resample_positions, sincos_table
from vos_core.errors import UsageError
from vos_core.ops.attention import attend
from vos_core.ops.linear import linear

NORM_EPS = 1e-6
"""Of every layer norm, encoder and decoder."""


def split_heads(x: Tensor, parts: int, heads: int) -> tuple[Tensor, ...]:
    """Return `parts` tensors `(B, H, L, D / H)` from a fused projection `(B, L, parts * D)`."""
    batch, length, width = x.shape
    return x.view(batch, length, parts, heads, width // (parts * heads)).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """Return `(B, L, D)` from `(B, H, L, D / H)`."""
    return x.transpose(1, 2).flatten(2)


class PatchEmbed(nn.Module):
    """Patches of an image as tokens: a convolution whose stride is its size."""

    def __init__(self, patch: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        """Return `(B, L, D)` from `(B, 3, height, width)`, row by row."""
        # Patches do not overlap, so the convolution is one matrix product over unfolded patches; torch's own is slower on CPUs.
        patch = self.proj.kernel_size[0]
        batch, _, height, width = images.shape
        rows, columns = height // patch, width // patch
        x = images[:, :, : rows * patch, : columns * patch].reshape(batch, 3, rows, patch, columns, patch)
        x = x.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, 3 * patch * patch)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Self-attention with a fused projection, order q, k, v along the output axis."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens, `(B, L, D)`."""
        query, key, value = split_heads(linear(x, self.qkv.weight, self.qkv.bias), 3, self.heads)
        return linear(merge_heads(attend(query, key, value)), self.proj.weight, self.proj.bias)

    def weights(self, x: Tensor) -> Tensor:
        """Return the attention of every head, `(B, H, L, L)`, rows summing to 1; for pictures."""
        query, key, _ = split_heads(self.qkv(x), 3, self.heads)
        return torch.softmax(query @ key.transpose(2, 3) * query.shape[-1] ** -0.5, 3)


class Mlp(nn.Module):
    """Two layers with the exact (erf) GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, L, D)`."""
        hidden = linear(x, self.fc1.weight, self.fc1.bias, activation="gelu")
        return linear(hidden, self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, L, D)`."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """The vision transformer under its checkpoint names; positions are fixed tables stored as parameters.

    Args:
        patch: side of a patch in pixels.
        dim: channels.
        depth: blocks.
        heads: attention heads; divides `dim`.
        image_size: side of the square images that the position table is for, in pixels.

    Raises:
        UsageError: sizes that do not divide.
    """

    def __init__(self, *, patch: int, dim: int, depth: int, heads: int, image_size: int = 224) -> None:
        super().__init__()
        if image_size % patch or dim % heads:
            raise UsageError(
                f"images of {image_size} pixels in patches of {patch}, {dim} channels in {heads} heads",
                expected="patches that divide the image and heads that divide the channels",
            )
        self.patch, self.dim, self.image_size = patch, dim, image_size
        side = image_size // patch
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_table(dim, side), requires_grad=False)
        self.patch_embed = PatchEmbed(patch, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    @property
    def patches(self) -> int:
        """Patches of an image of the pre-training size."""
        return self.pos_embed.shape[1] - 1

    def positions(self, height: int, width: int) -> Tensor:
        """Return the position table for images of this size in pixels, `(1, L + 1, D)`; see `resample_positions`.

        Raises:
            UsageError: an image smaller than a patch.
        """
        grid = (height // self.patch, width // self.patch)
        if min(grid) < 1:
            raise UsageError(f"an image of {width}x{height} pixels", expected=f"at least one patch of {self.patch} pixels")
        return resample_positions(self.pos_embed, grid)

    def embed(self, images: Tensor) -> Tensor:
        """Return the tokens before the first block, class token first, `(B, L + 1, D)`.

        Args:
            images: normalised, `(B, 3, height, width)`; a rest that fills no patch is left out.
        """
        patches = self.patch_embed(images)
        positions = self.positions(*images.shape[2:])
        first = (self.cls_token + positions[:, :1]).expand(len(images), -1, -1)
        return torch.cat((first, patches + positions[:, 1:]), 1)

    def transform(self, tokens: Tensor) -> Tensor:
        """Return tokens after all blocks and the final norm."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def encode(self, images: Tensor) -> Tensor:
        """Return the output tokens of any images, class token first, `(B, L + 1, D)`."""
        return self.transform(self.embed(images))

    def forward(self, images: Tensor) -> Tensor:
        """Return `encode(images)`."""
        return self.encode(images)

    def dense_features(self, images: Tensor) -> Tensor:
        """Return the output tokens of the patches as a grid, `(B, D, h, w)`; the class token is dropped."""
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        return self.encode(images)[:, 1:].transpose(1, 2).reshape(len(images), self.dim, *grid)

    @torch.no_grad()
    def attention_maps(self, images: Tensor, *, block: int = -1) -> Tensor:
        """Return how the class token of a block attends to the patches, per head, `(B, H, h, w)`."""
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        tokens, chosen = self.embed(images), range(len(self.blocks))[block]
        for layer in self.blocks[:chosen]:
            tokens = layer(tokens)
        layer = self.blocks[chosen]
        assert isinstance(layer, Block)
        return layer.attn.weights(layer.norm1(tokens))[:, :, 0, 1:].reshape(len(images), -1, *grid)


def initialise(module: nn.Module) -> None:
    """Set weights as the method starts: Xavier for matrices, 0.02 for tokens, identity norms, zero biases.

    The patch convolution is treated as a matrix, and its bias keeps torch's default, as published.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
        elif isinstance(part, PatchEmbed):
            nn.init.xavier_uniform_(part.proj.weight.view(part.proj.weight.shape[0], -1))
    for name, parameter in module.named_parameters():
        if name in ("cls_token", "mask_token"):
            nn.init.normal_(parameter, std=0.02)
