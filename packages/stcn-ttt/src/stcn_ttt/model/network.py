"""STCN as four functions of explicit tensors: encode a key, encode values, segment from a memory, decode a value directly.

They hold no state, so that test-time and offline training can run them with gradients and the streaming segmenter without.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from stcn_ttt.model.blocks import SharedPart, WideConv
from stcn_ttt.model.decoder import Decoder, FrameSkips
from stcn_ttt.model.encoders import KeyEncoder, KeyProjection, ValueEncoder
from vos_core.ops.affinity import dense_affinity, dense_readout
from vos_core.ops.aggregate import aggregate_logits

STRIDE = 16
KEY_CHANNELS = 64
VALUE_CHANNELS = 512


class KeyFeatures(NamedTuple):
    """What the image alone gives, once per frame.

    Args:
        key: `(B, 64, h, w)`, matched between frames.
        thin: `(B, 512, h, w)`, stride-16 feature for the decoder.
        f16: `(B, 1024, h, w)`, stride-16 feature for the value encoder.
        f8: `(B, 512, 2h, 2w)`.
        f4: `(B, 256, 4h, 4w)`.
    """

    key: Tensor
    thin: Tensor
    f16: Tensor
    f8: Tensor
    f4: Tensor


class Segmentation(NamedTuple):
    """Aggregated prediction of one frame, background first.

    Args:
        logits: float32 `(B, N + 1, H, W)` before the soft-max; what losses take.
        probs: float32 `(B, N + 1, H, W)`, their soft-max.
    """

    logits: Tensor
    probs: Tensor


class STCN(nn.Module):
    """Key encoder, value encoder, key projections and decoder; 54,434,180 parameters.

    Images are normalised RGB whose sides are multiples of 16. Every norm uses its stored statistics at all times, also while
    training.

    Args:
        single_object: the stage-0 form, whose value encoder sees no "other objects" channel.
    """

    def __init__(self, *, single_object: bool = False) -> None:
        super().__init__()
        self.single_object = single_object
        self.key_encoder = KeyEncoder()
        self.value_encoder = ValueEncoder(mask_channels=1 if single_object else 2)
        self.key_proj = KeyProjection(1024, KEY_CHANNELS)
        self.key_comp = WideConv(1024, VALUE_CHANNELS)
        self.decoder = Decoder()
        self.eval()

    def train(self, mode: bool = True) -> STCN:
        """Stay in evaluation mode: every stage keeps ImageNet's running statistics, and nothing else depends on it."""
        return super().train(False)

    def encode_key(self, image: Tensor) -> KeyFeatures:
        """Return the image features of `(B, 3, H, W)`."""
        f16, f8, f4 = self.key_encoder(image)
        return KeyFeatures(key=self.key_proj(f16), thin=self.key_comp(f16), f16=f16, f8=f8, f4=f4)

    def encode_value(
        self, image: Tensor, f16: Tensor, masks: Tensor, *, others: Tensor | None = None, part: SharedPart | None = None
    ) -> Tensor:
        """Return the values `(B, N, 512, h, w)` of N objects.

        Args:
            image: normalised `(B, 3, H, W)`.
            f16: `KeyFeatures.f16` of the same frames.
            masks: each object's mask, hard or soft, `(B, N, H, W)`, 0-1.
            others: sum of each object's other masks, `(B, N, H, W)`, not clamped; None = of those in `masks`.
            part: the fuser's share of the frame, if it is at hand from before.
        """
        batch, objects = masks.shape[:2]
        own = masks.flatten(0, 1).unsqueeze(1)
        if not self.single_object:
            others = sum_of_others(masks) if others is None else others
            own = torch.cat((own, others.flatten(0, 1).unsqueeze(1)), 1)
        values = self.value_encoder(image, f16, own.to(image.dtype), part=part)
        return values.unflatten(0, (batch, objects))

    def segment(
        self,
        features: KeyFeatures,
        memory_key: Tensor,
        memory_value: Tensor,
        *,
        selector: Tensor | None = None,
        skips: FrameSkips | None = None,
        empty_slots: int = 0,
    ) -> Segmentation:
        """Return the prediction of frames matched against a memory, with a soft-max over *all* memory nodes as in training.

        Args:
            features: of the frames to segment.
            memory_key: `(B, 64, T, h, w)`.
            memory_value: `(B, N, 512, T, h, w)`.
            selector: see `decode_value`, like `skips` and `empty_slots`.
        """
        affinity = dense_affinity(memory_key, features.key)  # one for all objects
        readout = dense_readout(affinity, memory_value.flatten(3))
        maps = readout.view(*readout.shape[:3], *features.key.shape[-2:])
        return self.decode_value(features, maps, selector=selector, skips=skips, empty_slots=empty_slots)

    def decode_value(
        self,
        features: KeyFeatures,
        value: Tensor,
        *,
        selector: Tensor | None = None,
        skips: FrameSkips | None = None,
        empty_slots: int = 0,
    ) -> Segmentation:
        """Return the prediction of readouts, or of values as they are, `(B, N, 512, h, w)`.

        Args:
            features: of the frames that the decoder's skips come from.
            value: one per object.
            selector: `(B, N)`, 0 or 1, multiplies the objects' probabilities; None = all 1.
            skips: `decoder_skips(features)`, if it is at hand from before.
            empty_slots: objects of probability 0 to append; they take their share in the aggregation and need no values.
        """
        logits = self.object_logits(value, self.decoder_skips(features) if skips is None else skips)
        probs = torch.sigmoid(logits.float())
        if selector is not None:
            probs = probs * selector[:, :, None, None]
        if empty_slots:
            probs = torch.cat((probs, probs.new_zeros(probs.shape[0], empty_slots, *probs.shape[2:])), 1)
        aggregated = aggregate_logits(probs)
        return Segmentation(logits=aggregated, probs=torch.softmax(aggregated, 1))

    def decoder_skips(self, features: KeyFeatures) -> FrameSkips:
        """Return the decoder's share of a frame; compute it once when one frame is decoded more than once."""
        return self.decoder.skips(features.thin, features.f8, features.f4)

    def object_logits(self, value: Tensor, skips: FrameSkips) -> Tensor:
        """Return each object's own logits `(B, N, H, W)` of `(B, N, 512, h, w)`, before aggregation."""
        return self.decoder(value.flatten(0, 1), skips).squeeze(1).unflatten(0, value.shape[:2])


def sum_of_others(masks: Tensor) -> Tensor:
    """Return, for each of the N masks `(B, N, H, W)`, the sum of the other N - 1: the total minus its own."""
    return masks.sum(1, keepdim=True) - masks
