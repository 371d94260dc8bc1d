"""Hiera: the hierarchical vision transformer that encodes images (spec section 2.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sam2_rcms.config import TrunkConfig
from sam2_rcms.model.layers import MLP, DropPath
from vos_core.ops.attention import attend
from vos_core.ops.linear import linear

TOKENS_AT_ONCE = 4096
"""Tokens in one band of windows where no gradient is wanted: what a block makes of them stays in the cache."""


class PatchEmbed(nn.Module):
    """Overlapping patches of stride 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, 7, stride=4, padding=3)

    def forward(self, image: Tensor) -> Tensor:
        """Return `(B, H / 4, W / 4, C)` of `(B, 3, H, W)`."""
        out: Tensor = self.proj(image).permute(0, 2, 3, 1)
        return out


class MultiScaleAttention(nn.Module):
    """Attention over windows `(B, h, w, C)`; with `pool`, queries are max-pooled 2 x 2 first."""

    def __init__(self, dim: int, dim_out: int, *, heads: int, pool: bool) -> None:
        super().__init__()
        self.heads, self.pool = heads, pool
        self.qkv = nn.Linear(dim, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, h, w, C')`, or half of each side with pooling."""
        batch, height, width, _ = x.shape
        query, key, value = linear(x, self.qkv.weight, self.qkv.bias).reshape(batch, height * width, 3, self.heads, -1).unbind(2)
        if self.pool:
            query = max_pool(query.reshape(batch, height, width, -1))
            height, width = query.shape[1:3]
            query = query.reshape(batch, height * width, self.heads, -1)
        out = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return linear(out.transpose(1, 2).reshape(batch, height, width, -1), self.proj.weight, self.proj.bias)


def max_pool(x: Tensor) -> Tensor:
    """Return `(B, h / 2, w / 2, C)` maxima of 2 x 2 cells of `(B, h, w, C)`."""
    if torch.is_grad_enabled():
        return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    # Queries lie between keys and values; torch's pooling would first copy them together.
    upper, lower = x[:, 0::2], x[:, 1::2]
    best = torch.maximum(upper[:, :, 0::2], upper[:, :, 1::2])
    for cells in (lower[:, :, 0::2], lower[:, :, 1::2]):
        torch.maximum(best, cells, out=best)
    return best


class MultiScaleBlock(nn.Module):
    """One transformer block.

    Args:
        dim: channels of the input.
        dim_out: channels of the output; where they differ the shortcut is projected (from the *normed* input) and pooled.
        heads: attention heads.
        window: side of the attention windows in tokens; 0 = the whole image.
        pool: halve the grid.
        drop_path: rate of stochastic depth in training.
    """

    def __init__(self, dim: int, dim_out: int, *, heads: int, window: int, pool: bool, drop_path: float) -> None:
        super().__init__()
        self.window, self.pool = window, pool
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = MultiScaleAttention(dim, dim_out, heads=heads, pool=pool)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim_out, eps=1e-6)
        self.mlp = MLP((dim_out, 4 * dim_out, dim_out), activation="gelu")
        if dim != dim_out:
            self.proj = nn.Linear(dim, dim_out)

    def forward(self, x: Tensor, *, consume: bool = False) -> Tensor:
        """Return `(B, h, w, C)` tokens, or half of each side if the block pools.

        Args:
            x: tokens.
            consume: the result may take the place of `x`; where no gradient is wanted and the size stays, it does.
        """
        if torch.is_grad_enabled():
            return self._compute(x)
        consume = consume and not hasattr(self, "proj")
        if not self.window:
            return self._compute(x, out=x if consume else None)
        # Windows do not see each other. A band of them at a time, all that is made on the way stays in the cache.
        rows = self.window * max(1, TOKENS_AT_ONCE // (self.window * x.shape[2]))
        batch, height, width = x.shape[:3]
        side = 2 if self.pool else 1
        out = x if consume else x.new_empty(batch, height // side, width // side, self.norm2.weight.shape[0])
        for band, place in zip(torch.split(x, rows, 1), torch.split(out, rows // side, 1), strict=True):
            self._compute(band, out=place)
        return out

    def _compute(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the block's output, in `out` if given, which may be `x` itself."""
        shortcut = x
        x = self.norm1(x)
        if hasattr(self, "proj"):
            shortcut = linear(x, self.proj.weight, self.proj.bias)
            if self.pool:
                shortcut = max_pool(shortcut)
        window, grid = self.window, (x.shape[1], x.shape[2])
        if window:
            x, padded = partition(x, window)
        x = self.attn(x)
        if window:
            if self.pool:
                # Windows are half as large now, and so is what was padded.
                window, grid = window // 2, (shortcut.shape[1], shortcut.shape[2])
                padded = (grid[0] + -grid[0] % window, grid[1] + -grid[1] % window)
            x = unpartition(x, window, padded, grid)
        x = torch.add(shortcut, self.drop_path(x), out=out)
        return torch.add(x, self.drop_path(self.mlp(self.norm2(x))), out=out)


def partition(x: Tensor, window: int) -> tuple[Tensor, tuple[int, int]]:
    """Return windows `(B * n, window, window, C)` of `(B, h, w, C)`, padded right and below with zeros, and the padded grid."""
    batch, height, width, channels = x.shape
    bottom, right = -height % window, -width % window
    if bottom or right:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    high, wide = height + bottom, width + right
    x = x.view(batch, high // window, window, wide // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window, window, channels), (high, wide)


def unpartition(windows: Tensor, window: int, padded: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Return `(B, h, w, C)` of windows, padding cut off."""
    rows, columns = padded[0] // window, padded[1] // window
    x = windows.view(-1, rows, columns, window, window, windows.shape[-1]).transpose(2, 3)
    x = x.reshape(x.shape[0], *padded, windows.shape[-1])
    return x[:, : grid[0], : grid[1]].contiguous() if padded != grid else x


class Hiera(nn.Module):
    """Image encoder in four stages at strides 4, 8, 16, 32.

    Args:
        config: sizes, see `TrunkConfig`.
    """

    checkpointing = False
    """Recompute each block in the backward pass instead of keeping its activations (training)."""

    def __init__(self, config: TrunkConfig) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(config.embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.embed_dim, *config.pos_embed_grid))
        side = config.window_spec[0]
        self.pos_embed_window = nn.Parameter(torch.zeros(1, config.embed_dim, side, side))
        ends = [sum(config.stages[: index + 1]) - 1 for index in range(4)]
        depth = ends[-1] + 1
        # Built on the CPU also where the module is built on the meta device.
        rates = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        dim, heads, stage, blocks = config.embed_dim, config.num_heads, 0, []
        for index in range(depth):
            # A stage's first block still works in the windows of the stage before.
            window = 0 if index in config.global_att_blocks else config.window_spec[stage]
            grows = index - 1 in ends[:3]
            dim_out = dim
            if grows:
                dim_out, heads, stage = 2 * dim, 2 * heads, stage + 1
            blocks.append(MultiScaleBlock(dim, dim_out, heads=heads, window=window, pool=grows, drop_path=rates[index]))
            dim = dim_out
        self.blocks = nn.ModuleList(blocks)
        self._ends = frozenset(ends)
        self.channels = tuple(config.embed_dim * 2**stage for stage in (3, 2, 1, 0))  # deepest first
        self._position: tuple[object, Tensor] | None = None

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the stages' outputs `(B, C, h, w)`, shallow to deep."""
        x = self.patch_embed(image)
        x = self.position(x.shape[1], x.shape[2]) + x  # in this order it also lays channels side by side
        outputs = []
        for index, block in enumerate(self.blocks):
            recompute = self.checkpointing and torch.is_grad_enabled()
            # A stage's output stays as it is: the next block halves the grid.
            x = checkpoint(block, x, use_reentrant=False) if recompute else block(x, consume=True)
            if index in self._ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs

    def position(self, height: int, width: int) -> Tensor:
        """Return the position embedding `(1, height, width, C)` of a token grid; remembered while weights stay as they are."""
        if torch.is_grad_enabled():
            return self._make_position(height, width)
        key = (height, width, self.pos_embed.device, self.pos_embed._version, self.pos_embed_window._version)
        if self._position is None or self._position[0] != key:
            self._position = (key, self._make_position(height, width))
        return self._position[1]

    def _make_position(self, height: int, width: int) -> Tensor:
        whole = F.interpolate(self.pos_embed, size=(height, width), mode="bicubic", align_corners=False)
        side = self.pos_embed_window.shape[-1]
        tiled = self.pos_embed_window.tile(1, 1, height // side, width // side)
        return (whole + tiled).permute(0, 2, 3, 1).contiguous()
