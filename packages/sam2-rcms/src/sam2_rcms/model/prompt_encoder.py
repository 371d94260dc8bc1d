"""Clicks, boxes and mask logits as tokens and maps (spec section 2.4)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sam2_rcms.model.layers import LayerNorm2d

CHANNELS = 256
NOT_A_POINT = -1
"""Label of a padding point."""


class RandomPositionEncoding(nn.Module):
    """Random Fourier features of places in the unit square."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, CHANNELS // 2))

    def forward(self, places: Tensor) -> Tensor:
        """Return float32 `(..., 256)` of `(..., 2)`, x then y in 0-1."""
        # Angles of several turns: in half precision they would be wrong by degrees.
        with torch.autocast(places.device.type, enabled=False):
            angle = (2 * places.float() - 1) @ self.positional_encoding_gaussian_matrix.float() * (2 * math.pi)
        return torch.cat((angle.sin(), angle.cos()), -1)


class PromptEncoder(nn.Module):
    """Sparse tokens of clicks and box corners, a dense map of mask logits."""

    def __init__(self) -> None:
        super().__init__()
        self.pe_layer = RandomPositionEncoding()
        # negative click, positive click, top left corner, bottom right corner
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, CHANNELS) for _ in range(4))
        self.not_a_point_embed = nn.Embedding(1, CHANNELS)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, 4, 2, stride=2),
            LayerNorm2d(4),
            nn.GELU(),
            nn.Conv2d(4, 16, 2, stride=2),
            LayerNorm2d(16),
            nn.GELU(),
            nn.Conv2d(16, CHANNELS, 1),
        )
        self.no_mask_embed = nn.Embedding(1, CHANNELS)
        self._dense_pe: tuple[object, Tensor] | None = None

    def sparse(self, points: Tensor | None, labels: Tensor | None, *, side: tuple[int, int], batch: int) -> Tensor:
        """Return tokens `(B, P + 1, 256)`; a padding point always comes last, and no click at all is one more of them.

        Args:
            points: `(B, P, 2)`, x then y in pixels of the network's image; None = no prompt.
            labels: `(B, P)`: 0, 1 clicks, 2, 3 box corners, -1 padding.
            side: (height, width) of that image.
            batch: B.
        """
        nothing = self.not_a_point_embed.weight.expand(batch, 1, -1)
        if points is None or labels is None:
            if not torch.is_grad_enabled():
                return torch.cat((nothing, nothing), 1)
            # The long way, so that the embeddings of clicks get gradients of zero, as in the original, and so decay like all.
            device = nothing.device
            points = torch.zeros(batch, 1, 2, device=device)
            labels = torch.full((batch, 1), NOT_A_POINT, dtype=torch.int32, device=device)
        scale = torch.tensor([side[1], side[0]], dtype=torch.float32, device=points.device)
        places = self.pe_layer((points.float() + 0.5) / scale)
        table = torch.cat([embedding.weight for embedding in self.point_embeddings])  # type: ignore[misc]
        known = places + table[labels.clamp(min=0).long()]
        tokens = torch.where((labels == NOT_A_POINT).unsqueeze(-1), nothing, known)
        return torch.cat((tokens, nothing), 1)

    def dense(self, mask: Tensor | None, *, grid: tuple[int, int], batch: int) -> Tensor:
        """Return the map `(B, 256, h, w)` of mask logits `(B, 1, 4h, 4w)`, or of none."""
        if mask is None:
            return self.no_mask_embed.weight.view(1, -1, 1, 1).expand(batch, -1, *grid)
        out: Tensor = self.mask_downscaling(mask)
        return out

    def dense_pe(self, grid: tuple[int, int]) -> Tensor:
        """Return position encodings `(1, 256, h, w)` of cell centres."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        key = (grid, matrix.device, matrix._version)
        if self._dense_pe is None or self._dense_pe[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                height, width = grid
                rows = (torch.arange(height, device=matrix.device) + 0.5) / height
                columns = (torch.arange(width, device=matrix.device) + 0.5) / width
                y, x = torch.meshgrid(rows, columns, indexing="ij")
                made = self.pe_layer(torch.stack((x, y), -1)).permute(2, 0, 1).unsqueeze(0)
            self._dense_pe = (key, made)
        return self._dense_pe[1]
