"""Swin-B without its fourth stage, with the attribute names of the official checkpoints.

Liu et al., "Swin Transformer: hierarchical vision transformer using shifted windows". Tokens are kept as maps `(B, H, W, C)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rmem_deaot.model.drop_path import DropPath

WINDOW = 7
SHIFT = WINDOW // 2
MASKED = -100.0
"""Added to scores between cells that were not neighbours before the shift."""


class WindowAttention(nn.Module):
    """Multi-head attention inside windows of 7 x 7 cells with a learned relative bias.

    Args:
        channels: of the tokens.
        heads: attention heads.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        cells = torch.stack(torch.meshgrid(torch.arange(WINDOW), torch.arange(WINDOW), indexing="ij")).flatten(1)
        offset = cells[:, :, None] - cells[:, None, :] + WINDOW - 1
        self.register_buffer("relative_position_index", offset[0] * (2 * WINDOW - 1) + offset[1])
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return attended tokens.

        Args:
            x: `(B * windows, 49, C)`.
            mask: summand of the scores, `(windows, 49, 49)`; None = nothing is masked.
        """
        windows, cells, channels = x.shape
        q, k, v = self.qkv(x).view(windows, cells, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.view(1, cells, cells, self.heads).permute(0, 3, 1, 2).to(x.dtype)
        if mask is not None:
            bias = (bias + mask.unsqueeze(1).to(x.dtype)).repeat(windows // len(mask), 1, 1, 1)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.expand(windows, -1, -1, -1), scale=self.scale)
        out: Tensor = self.proj(read.transpose(1, 2).reshape(windows, cells, channels))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU.

    Args:
        channels: of the tokens; four times as many inside.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class Block(nn.Module):
    """Window attention and MLP, each around a shortcut.

    Args:
        channels: of the tokens.
        heads: attention heads.
        shifted: whether windows lie half a window off.
        drop_path: chance that a sample skips a branch, in training.
    """

    def __init__(self, channels: int, heads: int, *, shifted: bool, drop_path: float) -> None:
        super().__init__()
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Return tokens `(B, H, W, C)`; `mask` is `shift_mask` of the size."""
        batch, height, width, channels = x.shape
        y = F.pad(self.norm1(x), (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
        rows, columns = y.shape[1] // WINDOW, y.shape[2] // WINDOW
        if self.shifted:
            y = torch.roll(y, (-SHIFT, -SHIFT), (1, 2))
        y = y.view(batch, rows, WINDOW, columns, WINDOW, channels).transpose(2, 3).reshape(-1, WINDOW**2, channels)
        y = self.attn(y, mask if self.shifted else None)
        y = y.view(batch, rows, columns, WINDOW, WINDOW, channels).transpose(2, 3)
        y = y.reshape(batch, rows * WINDOW, columns * WINDOW, channels)
        if self.shifted:
            y = torch.roll(y, (SHIFT, SHIFT), (1, 2))
        x = x + self.drop_path(y[:, :height, :width])
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchMerging(nn.Module):
    """Four neighbours become one cell of twice the channels.

    Args:
        channels: of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, H / 2, W / 2, 2 C)` of `(B, H, W, C)`."""
        x = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), -1)
        out: Tensor = self.reduction(self.norm(x))
        return out


class Stage(nn.Module):
    """Blocks at one size, then perhaps a merging.

    Args:
        channels: of the tokens.
        heads: attention heads.
        drop_paths: one per block.
        merge: whether the next stage is half the size.
    """

    def __init__(self, channels: int, heads: int, drop_paths: list[float], *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(channels, heads, shifted=bool(index % 2), drop_path=drop) for index, drop in enumerate(drop_paths)
        )
        self.downsample = PatchMerging(channels) if merge else None

    def forward(self, x: Tensor) -> Tensor:
        """Return `(B, H, W, C)` before merging."""
        mask = shift_mask(x.shape[1], x.shape[2], x.device)
        for block in self.blocks:
            x = block(x, mask)
        return x


class PatchEmbed(nn.Module):
    """Patches of 4 x 4 pixels as tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 128, 4, stride=4)
        self.norm = nn.LayerNorm(128)

    def forward(self, image: Tensor) -> Tensor:
        """Return `(B, H / 4, W / 4, 128)`."""
        out: Tensor = self.norm(self.proj(image).permute(0, 2, 3, 1))
        return out


class SwinB(nn.Module):
    """The trunk: three stages of 2, 2 and 18 blocks."""

    channels = (128, 256, 512, 512)
    depths, heads = (2, 2, 18), (4, 8, 16)

    def __init__(self, *, drop_path: float = 0.3) -> None:
        super().__init__()
        blocks = sum(self.depths) + 2  # the absent fourth stage has two
        rates = [drop_path * block / (blocks - 1) for block in range(blocks)]
        rates[: self.depths[0]] = [0.0] * self.depths[0]  # the first stage is frozen, its drops are off
        self.patch_embed = PatchEmbed()
        self.layers = nn.ModuleList()
        for index, depth in enumerate(self.depths):
            start = sum(self.depths[:index])
            self.layers.append(Stage(128 * 2**index, self.heads[index], rates[start : start + depth], merge=index < 2))
            self.add_module(f"norm{index}", nn.LayerNorm(128 * 2**index))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return maps at strides 4, 8, 16 and the one to project (the last again) of `(B, 3, H, W)`, sides multiples of 16."""
        maps = []
        x = self.patch_embed(image)
        for index, stage in enumerate(self.layers):
            x = stage(x)
            maps.append(self.get_submodule(f"norm{index}")(x).permute(0, 3, 1, 2))
            if index < 2:
                x = self.get_submodule(f"layers.{index}.downsample")(x)
        return maps[0], maps[1], maps[2], maps[2]

    def frozen(self) -> list[nn.Module]:
        """Return the modules that training leaves alone: the embedding and the blocks of the first stage."""
        return [self.patch_embed, self.get_submodule("layers.0.blocks")]


def shift_mask(height: int, width: int, device: torch.device) -> Tensor:
    """Return what to add to scores in shifted windows, `(windows, 49, 49)`: -100 between former non-neighbours."""
    rows, columns = (size + -size % WINDOW for size in (height, width))
    region = torch.zeros(rows, columns, device=device)
    edges = (slice(0, -WINDOW), slice(-WINDOW, -SHIFT), slice(-SHIFT, None))
    for i, row in enumerate(edges):
        for j, column in enumerate(edges):
            region[row, column] = 3 * i + j
    region = region.view(rows // WINDOW, WINDOW, columns // WINDOW, WINDOW).transpose(1, 2).reshape(-1, WINDOW**2)
    return (region[:, None, :] != region[:, :, None]).float() * MASKED
