"""Masks, their predicted IoUs and the object score out of image features and prompts (spec section 2.5)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.model.layers import MLP, LayerNorm2d
from sam2_rcms.model.two_way_transformer import TwoWayTransformer

CHANNELS, MASKS, UPSCALED = 256, 4, 32
Which = Literal["all", "multi", "single"]
"""Masks to compute: all four, the three of an ambiguous prompt (1..3), or the one of a clear prompt (0)."""
_SLICES: dict[Which, slice] = {"all": slice(0, 4), "multi": slice(1, 4), "single": slice(0, 1)}


class Decoded(NamedTuple):
    """What the decoder says of B prompts: M masks as asked for.

    Args:
        masks: low-resolution logits `(B, M, 4h, 4w)`.
        ious: predicted IoUs `(B, M)`, 0-1.
        tokens: output tokens of these masks `(B, M, 256)`.
        score: logit that the object is there `(B, 1)`.
    """

    masks: Tensor
    ious: Tensor
    tokens: Tensor
    score: Tensor


class MaskDecoder(nn.Module):
    """Two-way transformer, upscaling and a small hyper-network per mask."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer()
        self.iou_token = nn.Embedding(1, CHANNELS)
        self.mask_tokens = nn.Embedding(MASKS, CHANNELS)
        self.obj_score_token = nn.Embedding(1, CHANNELS)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(CHANNELS, 64, 2, stride=2),
            LayerNorm2d(64),
            nn.GELU(),
            nn.ConvTranspose2d(64, UPSCALED, 2, stride=2),
            nn.GELU(),
        )
        self.conv_s0 = nn.Conv2d(CHANNELS, UPSCALED, 1)
        self.conv_s1 = nn.Conv2d(CHANNELS, 64, 1)
        self.output_hypernetworks_mlps = nn.ModuleList(MLP((CHANNELS, CHANNELS, CHANNELS, UPSCALED)) for _ in range(MASKS))
        self.iou_prediction_head = MLP((CHANNELS, CHANNELS, CHANNELS, MASKS), sigmoid=True)
        self.pred_obj_score_head = MLP((CHANNELS, CHANNELS, CHANNELS, 1))

    def forward(
        self,
        features: Tensor,
        *,
        image_pe: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high: tuple[Tensor, Tensor],
        which: Which = "all",
    ) -> Decoded:
        """Return what is decoded; masks that are not asked for are not computed.

        Args:
            features: `(B, 256, h, w)`, or batch 1 shared by all prompts.
            image_pe: `(1, 256, h, w)`.
            sparse: `(B, P, 256)`.
            dense: `(B, 256, h, w)`.
            high: features at strides 4 and 8 after `conv_s0` and `conv_s1`, `(B or 1, 32 and 64, ...)`.
            which: see `Which`.
        """
        batch, (height, width) = sparse.shape[0], features.shape[-2:]
        own = torch.cat((self.obj_score_token.weight, self.iou_token.weight, self.mask_tokens.weight))
        tokens = torch.cat((own.expand(batch, -1, -1), sparse), 1)
        image = (features + dense).expand(batch, -1, -1, -1).flatten(2).transpose(1, 2)
        tokens, image = self.transformer(image, image_pe.flatten(2).transpose(1, 2), tokens)
        chosen = _SLICES[which]
        mask_tokens = tokens[:, 2 : 2 + MASKS][:, chosen]
        source = image.transpose(1, 2).unflatten(2, (height, width))
        up1, norm, act1, up2, act2 = self.output_upscaling
        upscaled = act1(norm(up1(source) + high[1]))
        upscaled = act2(up2(upscaled) + high[0])
        # With gradients all four are computed: weights of the others get zeros, as in the original, and so decay like all.
        computed = _SLICES["all"] if torch.is_grad_enabled() else chosen
        hyper = torch.stack(
            [mlp(tokens[:, 2 + place]) for place, mlp in list(enumerate(self.output_hypernetworks_mlps))[computed]], 1
        )
        masks = (hyper @ upscaled.flatten(2)).unflatten(2, upscaled.shape[-2:])
        masks = masks[:, chosen] if torch.is_grad_enabled() else masks
        return Decoded(
            masks,
            self.iou_prediction_head(tokens[:, 1])[:, chosen],
            mask_tokens,
            self.pred_obj_score_head(tokens[:, 0]),
        )


def stability_scores(masks: Tensor, delta: float) -> Tensor:
    """Return `(B, M)`: pixels of logits `(B, M, H, W)` above `delta` over those above `-delta`; 1 where there are none."""
    flat = masks.flatten(-2)
    inner, outer = (flat > delta).sum(-1).float(), (flat > -delta).sum(-1).float()
    return torch.where(outer > 0, inner / outer, 1.0)


def stable_or_best(masks: Tensor, ious: Tensor, *, delta: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Return one mask `(B, 1, H, W)` and its IoU `(B, 1)` of all four: the single one if it is stable, else the best of three."""
    best = ious[:, 1:].argmax(-1)
    rows = torch.arange(masks.shape[0], device=masks.device)
    best_mask, best_iou = masks[:, 1:][rows, best].unsqueeze(1), ious[:, 1:][rows, best].unsqueeze(1)
    stable = stability_scores(masks[:, :1], delta) >= threshold
    return torch.where(stable[..., None, None], masks[:, :1], best_mask), torch.where(stable, ious[:, :1], best_iou)


def upsample(low: Tensor, side: tuple[int, int]) -> Tensor:
    """Return float32 logits at `side` = (height, width), bilinear without antialiasing."""
    return F.interpolate(low.float(), size=side, mode="bilinear", align_corners=False)
