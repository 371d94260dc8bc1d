"""The small protocol that the objectives talk to, and STCN behind it; another matching network plugs in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stcn_ttt.adapt.config import FROZEN_TOKENS
from stcn_ttt.model.blocks import SharedPart
from stcn_ttt.model.decoder import FrameSkips
from stcn_ttt.model.network import STCN, KeyFeatures, Segmentation


class Backbone(Protocol):
    """A network that matches frames against a memory of (frame state, object values).

    A frame state is whatever `encode_key` returns for a frame; the objectives only hand it back. B videos, N live objects.
    """

    def encode_key(self, images: Tensor) -> Sequence[Any]:
        """Return one state per frame of normalised images `(B, T, 3, H, W)`."""
        ...

    def encode_value(self, state: Any, image: Tensor, masks: Tensor, others: Tensor) -> Any:
        """Return the objects' values of a frame `(B, 3, H, W)`; masks and sums of the other masks are `(B, N, H, W)`, 0-1."""
        ...

    def segment(self, state: Any, memory: Sequence[tuple[Any, Any]], *, selector: Tensor, empty_slots: int) -> Segmentation:
        """Return the prediction of a frame read from a memory of (state, value) pairs.

        `selector` `(B, N)` multiplies the objects' probabilities; `empty_slots` objects of probability 0 are appended.
        """
        ...

    def decode_value(self, state: Any, value: Any, *, selector: Tensor, empty_slots: int) -> Segmentation:
        """Return the prediction of a frame from its own value, without matching."""
        ...


class StcnFrame:
    """Features of one frame and, computed once when first asked for, what all its objects and both passes share."""

    def __init__(self, network: STCN, features: KeyFeatures) -> None:
        self.network, self.features = network, features

    @cached_property
    def skips(self) -> FrameSkips:
        """The decoder's share of the frame."""
        return self.network.decoder_skips(self.features)

    @cached_property
    def value_part(self) -> SharedPart:
        """The value encoder's share of the frame."""
        return self.network.value_encoder.fuser.block1.share(self.features.f16)


class StcnBackbone:
    """STCN as a `Backbone`: one encoding of each frame for both directions of the cycle."""

    def __init__(self, network: STCN) -> None:
        self.network = network

    def encode_key(self, images: Tensor) -> list[StcnFrame]:
        """Return the frames' features, all frames encoded in one call."""
        batch, frames = images.shape[:2]
        features = self.network.encode_key(images.flatten(0, 1))
        parts = [part.unflatten(0, (batch, frames)) for part in features]  # type: ignore[no-untyped-call]
        return [StcnFrame(self.network, KeyFeatures(*(part[:, t] for part in parts))) for t in range(frames)]

    def encode_value(self, state: StcnFrame, image: Tensor, masks: Tensor, others: Tensor) -> Tensor:
        """Return values `(B, N, 512, h, w)`."""
        return self.network.encode_value(image, state.features.f16, masks, others=others, part=state.value_part)

    def segment(
        self, state: StcnFrame, memory: Sequence[tuple[StcnFrame, Tensor]], *, selector: Tensor, empty_slots: int
    ) -> Segmentation:
        """Return the prediction with a soft-max over all memory nodes."""
        keys = torch.stack([frame.features.key for frame, _ in memory], 2)
        values = torch.stack([value for _, value in memory], 3)
        return self.network.segment(state.features, keys, values, selector=selector, skips=state.skips, empty_slots=empty_slots)

    def decode_value(self, state: StcnFrame, value: Tensor, *, selector: Tensor, empty_slots: int) -> Segmentation:
        """Return the prediction of the value itself."""
        return self.network.decode_value(state.features, value, selector=selector, skips=state.skips, empty_slots=empty_slots)


# Prefixes of the tokens that `frozen_layers` knows.
_KEY_SIDE = ("key_encoder.", "key_proj.", "key_comp.")
_TOKENS: dict[str, tuple[str, ...]] = {
    "net": ("",),
    "enc": ("key_encoder.", "value_encoder."),
    "dec": ("decoder.",),
    "all_keys": _KEY_SIDE,
    "key_enc": ("key_encoder.",),
    "val_enc": ("value_encoder.",),
    "key_proj": ("key_proj.",),
    "key_comp": ("key_comp.",),
}


def freeze_layers(network: nn.Module, tokens: Sequence[str]) -> None:
    """Let gradients flow to all parameters but those that `tokens`, applied in order, freeze.

    Raises:
        ValueError: a token is unknown.
    """
    network.requires_grad_(True)
    for token in tokens:
        if token in ("bn", "ubn"):
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(token == "ubn")
        elif token in _TOKENS:
            for name, parameter in network.named_parameters():
                if name.startswith(_TOKENS[token]):
                    parameter.requires_grad_(False)
        else:
            raise ValueError(f"'{token}' is not one of {', '.join(FROZEN_TOKENS)}")
