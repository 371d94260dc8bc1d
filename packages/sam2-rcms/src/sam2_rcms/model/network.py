"""SAM 2.1: every weight of the model and the steps that a video loop is made of. No state of a video lives here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.config import TRUNKS, Size, TrunkConfig
from sam2_rcms.model.layers import MLP
from sam2_rcms.model.mask_decoder import MaskDecoder, stable_or_best, upsample
from sam2_rcms.model.memory_attention import MemoryAttention
from sam2_rcms.model.memory_encoder import MemoryEncoder
from sam2_rcms.model.neck import ImageEncoder, check_image
from sam2_rcms.model.position import sine_map, sine_of_distance
from sam2_rcms.model.prompt_encoder import PromptEncoder

CHANNELS, MEMORY, STRIDE = 256, 64, 16
SPATIAL_MEMORIES = 7
"""Temporal codes of spatial memories: entry 0 is the previous frame's, the last that of conditioning frames."""
POINTER_TOKENS = CHANNELS // MEMORY
"""Tokens of 64 channels that one object pointer is cut into."""
NO_OBJECT = -1024.0
"""Logits of an object whose score says that it is not there."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What a frame gives, whatever the object: `(B, 256, h, w)` at stride 16, and the decoder's share of strides 4 and 8."""

    stride16: Tensor
    high0: Tensor
    high1: Tensor

    @property
    def side(self) -> tuple[int, int]:
        """(height, width) of the network's image in pixels."""
        return self.stride16.shape[-2] * STRIDE, self.stride16.shape[-1] * STRIDE


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """Prediction for B objects; M masks were compared.

    Args:
        low: best logits `(B, 1, S / 4, S / 4)`.
        low_multi: all M `(B, M, S / 4, S / 4)`.
        ious: predicted IoUs `(B, M)`, 0-1.
        pointer: object pointer `(B, 256)`.
        score: logit that the object is there `(B, 1)`.
        high: best logits at image size `(B, 1, S, S)`, if they were asked for.
        high_multi: all M at image size, if they were asked for.
    """

    low: Tensor
    low_multi: Tensor
    ious: Tensor
    pointer: Tensor
    score: Tensor
    high: Tensor | None = None
    high_multi: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Stability:
    """When a single mask gives way to the best of three: probed by `delta` logits, below `threshold`."""

    delta: float = 0.05
    threshold: float = 0.98


class SAM2(nn.Module):
    """SAM 2.1 of one size; attribute names are the keys of the official checkpoints.

    Args:
        size: one of the released sizes.
        trunk: another image encoder than that of `size` (reduced models in tests).
        dropout: of memory attention in training.
    """

    def __init__(self, size: Size = "base_plus", *, trunk: TrunkConfig | None = None, dropout: float = 0.1) -> None:
        super().__init__()
        self.size = size
        self.image_encoder = ImageEncoder(trunk or TRUNKS[size])
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)
        self.memory_attention = MemoryAttention(dropout=dropout)
        self.memory_encoder = MemoryEncoder()
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(SPATIAL_MEMORIES, 1, 1, MEMORY))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, CHANNELS))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, CHANNELS))  # in every checkpoint, read by nothing
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, CHANNELS))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, MEMORY))
        for parameter in (
            self.maskmem_tpos_enc,
            self.no_mem_embed,
            self.no_mem_pos_enc,
            self.no_obj_ptr,
            self.no_obj_embed_spatial,
        ):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.sam_prompt_encoder = PromptEncoder()
        self.sam_mask_decoder = MaskDecoder()
        self.obj_ptr_proj = MLP((CHANNELS, CHANNELS, CHANNELS, CHANNELS))
        self.obj_ptr_tpos_proj = nn.Linear(CHANNELS, MEMORY)

    def forward_image(self, image: Tensor) -> ImageFeatures:
        """Return the features of normalised frames `(B, 3, S, S)`; S is any multiple of 32."""
        check_image(image)
        decoder = self.sam_mask_decoder
        high0, high1, stride16 = self.image_encoder(image, (decoder.conv_s0, decoder.conv_s1))
        return ImageFeatures(stride16, high0, high1)

    def without_memory(self, stride16: Tensor) -> Tensor:
        """Return the features `(B, 256, h, w)` of a frame that reads no memory."""
        return stride16 + self.no_mem_embed.view(1, CHANNELS, 1, 1)

    def read_memory(
        self,
        stride16: Tensor,
        memories: Sequence[Tensor],
        codes: Sequence[int] | Tensor,
        pointers: Tensor | None,
        distances: Tensor | None,
        *,
        span: int,
        keys: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Return the features conditioned on memory, `(B, 256, h, w)` (spec section 2.7).

        Args:
            stride16: `(B or 1, 256, h, w)`.
            memories: spatial memories `(B, 64, h, w)` each, at least one.
            codes: temporal code of each, an index into `maskmem_tpos_enc`, `SPATIAL_MEMORIES - 1` for conditioning frames:
                one for all objects, or int64 `(B, M)`.
            pointers: object pointers `(B, P, 256)`, or None.
            distances: frames between each pointer's frame and this one `(P,)` or `(B, P)`.
            span: what distances are divided by, at least 1.
            keys: see `MemoryAttention.forward`.
        """
        height, width = stride16.shape[-2:]
        batch = memories[0].shape[0]
        device = stride16.device
        grid_pos = sine_map(height, width, MEMORY, device).flatten(2).transpose(1, 2)
        tokens = [memory.flatten(2).transpose(1, 2) for memory in memories]
        table = self.maskmem_tpos_enc.flatten(1)
        times = table[codes.T].unsqueeze(2) if isinstance(codes, Tensor) else [table[code].view(1, 1, MEMORY) for code in codes]
        positions = [grid_pos + time for time in times]
        count = 0
        if pointers is not None and distances is not None and pointers.shape[1]:
            count = pointers.shape[1] * POINTER_TOKENS
            tokens.append(pointers.reshape(pointers.shape[0], -1, MEMORY))
            placed = self.obj_ptr_tpos_proj(sine_of_distance(distances.float() / span, CHANNELS))
            placed = placed.unsqueeze(0) if placed.ndim == 2 else placed
            positions.append(placed.repeat_interleave(POINTER_TOKENS, 1))
        wide = max((position.shape[0] for position in positions), default=1)
        memory = torch.cat([token.float() for token in tokens], 1)
        memory_pos = torch.cat([position.float().expand(wide, -1, -1) for position in positions], 1)
        out = self.memory_attention(
            stride16.flatten(2).transpose(1, 2),
            sine_map(height, width, CHANNELS, device).flatten(2).transpose(1, 2),
            memory,
            memory_pos,
            pointers=count,
            keys=keys,
        )
        conditioned: Tensor = out.transpose(1, 2).unflatten(2, (height, width))
        return conditioned.expand(batch, -1, -1, -1)

    def position_of_memory(self, grid: tuple[int, int], code: int) -> Tensor:
        """Return the positions `(L, 64)` of a spatial memory of temporal code `code`."""
        place = sine_map(*grid, MEMORY, self.maskmem_tpos_enc.device).flatten(2).transpose(1, 2)[0]
        return place + self.maskmem_tpos_enc[code].view(1, MEMORY)

    def heads(
        self,
        features: Tensor,
        image: ImageFeatures,
        *,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        multimask: bool,
        stability: Stability | None = None,
        at_image_size: str = "best",
    ) -> HeadOutput:
        """Return masks, IoUs, pointer and score (spec section 2.6, steps 1 to 5).

        Args:
            features: `(B or 1, 256, h, w)`, conditioned on memory or not.
            image: for the high-resolution levels.
            points: `(B, P, 2)`, x then y in pixels of the network's image.
            labels: `(B, P)`, see `PromptEncoder.sparse`.
            mask: logits `(B, 1, S / 4, S / 4)` as a prompt.
            multimask: predict three masks and take the best by predicted IoU.
            stability: with a single mask, fall back to the best of three where it is unstable.
            at_image_size: which masks to bring to image size: `all`, `best` or `none`.
        """
        batch = next((x.shape[0] for x in (points, mask) if x is not None), features.shape[0])
        grid = (features.shape[-2], features.shape[-1])
        encoder = self.sam_prompt_encoder
        decoded = self.sam_mask_decoder(
            features,
            image_pe=encoder.dense_pe(grid),
            sparse=encoder.sparse(points, labels, side=image.side, batch=batch),
            dense=encoder.dense(mask, grid=grid, batch=batch),
            high=(image.high0, image.high1),
            which="multi" if multimask else ("all" if stability else "single"),
        )
        masks, ious, token = decoded.masks, decoded.ious, decoded.tokens[:, 0]
        if stability is not None and not multimask:
            masks, ious = stable_or_best(masks, ious, delta=stability.delta, threshold=stability.threshold)
        present = decoded.score > 0
        low_multi = torch.where(present[..., None, None], masks, NO_OBJECT).float()
        low = low_multi
        if multimask:
            best = ious.argmax(-1)
            rows = torch.arange(batch, device=masks.device)
            low, token = low_multi[rows, best].unsqueeze(1), decoded.tokens[rows, best]
        high_multi = upsample(low_multi, image.side) if at_image_size == "all" else None
        high = None
        if high_multi is not None:
            high = high_multi[rows, best].unsqueeze(1) if multimask else high_multi
        elif at_image_size == "best":
            high = upsample(low, image.side)
        pointer = self._present_or_not(self.obj_ptr_proj(token), present)
        return HeadOutput(low, low_multi, ious, pointer, decoded.score, high, high_multi)

    def _present_or_not(self, pointer: Tensor, present: Tensor) -> Tensor:
        there = present.to(pointer.dtype)
        return there * pointer + (1 - there) * self.no_obj_ptr

    def mask_as_output(self, image: ImageFeatures, mask: Tensor) -> HeadOutput:
        """Return a given mask as if it had been predicted (spec section 2.6, step 6).

        Args:
            image: its frame, batch 1 or B.
            mask: 0 and 1, float `(B, 1, S, S)`.
        """
        high = mask * 20.0 - 10.0
        quarter = (high.shape[-2] // 4, high.shape[-1] // 4)
        low = F.interpolate(high, size=quarter, mode="bilinear", align_corners=False, antialias=True)
        features = image.stride16.expand(mask.shape[0], -1, -1, -1)
        out = self.heads(features, image, mask=self.mask_downsample(mask), multimask=False, at_image_size="none")
        present = (mask.flatten(1) > 0).any(1, keepdim=True)
        pointer = self._present_or_not(out.pointer, present)
        score = 20.0 * present.float() - 10.0
        return HeadOutput(low, low, mask.new_ones(mask.shape[0], 1), pointer, score, high, high)

    def encode_memory(
        self, stride16: Tensor, mask_logits: Tensor, score: Tensor, *, scale: float, bias: float, binary: bool = False
    ) -> Tensor:
        """Return spatial memories `(B, 64, h, w)` (spec section 2.3).

        Args:
            stride16: `(B or 1, 256, h, w)` of the frame, without memory.
            mask_logits: `(B, 1, S, S)`.
            score: object scores `(B, 1)`; at or below 0 the embedding of an absent object is added.
            scale: of the mask, after its sigmoid.
            bias: added after that.
            binary: take the mask as 0 and 1 instead of its sigmoid.
        """
        mask = (mask_logits > 0).float() if binary else torch.sigmoid(mask_logits.float())
        memory: Tensor = self.memory_encoder(stride16, mask * scale + bias)
        absent = (score <= 0).to(memory.dtype)[..., None, None]
        return memory + absent * self.no_obj_embed_spatial.view(1, MEMORY, 1, 1)
