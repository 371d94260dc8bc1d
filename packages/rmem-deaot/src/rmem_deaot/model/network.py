"""AOT and DeAOT as functions of explicit tensors: encode an image, encode a mask, propagate, write, decode.

They hold no state, so that training can run them with gradients and the streaming tracker without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from rmem_deaot.config import EMBEDDING, SLOTS, TEMPORAL_SLOTS, NetworkConfig
from rmem_deaot.model.attention import Size, to_map, to_tokens
from rmem_deaot.model.fpn_decoder import FPNDecoder
from rmem_deaot.model.gated_propagation import GatedPropagationLayer
from rmem_deaot.model.layer import LayerInput, LayerMemory, LongTermRead, Pending
from rmem_deaot.model.long_short_term import LongShortTermLayer, RecurrentLayer
from rmem_deaot.model.mobilenet import MobileNetV2
from rmem_deaot.model.resnet import BLOCKS, ResNet
from rmem_deaot.model.swin import SwinB

STRIDE = 16
CLASSES = SLOTS + 1
VOID = 255
UNUSED_LOGIT = -1e10
"""Logit of identities that no object has; -1e4 in half precision, as the original writes it."""


class Features(NamedTuple):
    """What the image alone gives, once per frame.

    Args:
        x4: encoder map at stride 4, `(B, C, H / 4, W / 4)`.
        x8: at stride 8.
        x16: at stride 16.
        projected: `(B, 256, h, w)`, what is propagated.
    """

    x4: Tensor
    x8: Tensor
    x16: Tensor
    projected: Tensor

    @property
    def size(self) -> Size:
        """Size of the stride-16 map."""
        return Size(self.projected.shape[2], self.projected.shape[3])


class Propagation(NamedTuple):
    """What the layers make of a frame.

    Args:
        maps: decoder input, `(B, C, h, w)`: normed outputs, with the projected features before them for AOT.
        pending: per layer, what `write` turns into memory.
    """

    maps: Tensor
    pending: list[Pending]


class GroupNorm1D(nn.Module):
    """Group norm over channels and tokens, two groups: the norm of DeAOT's two halves.

    Args:
        channels: of the tokens.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gn = nn.GroupNorm(2, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens `(B, L, C)`."""
        return self.gn(tokens.transpose(1, 2)).transpose(1, 2)


class LongShortTermTransformer(nn.Module):
    """The stack of propagation layers; attribute names are those of the checkpoints.

    Args:
        config: of the network.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.gated = config.family == "deaot"
        norms: list[nn.Module]
        layers: list[nn.Module]
        if self.gated:
            layers = [GatedPropagationLayer(EMBEDDING, first=index == 0) for index in range(config.layers)]
            norms = [GroupNorm1D(2 * EMBEDDING)]
        else:
            kind = LongShortTermLayer if config.short_term == "local" else RecurrentLayer
            layers = [kind(EMBEDDING) for _ in range(config.layers)]
            norms = [nn.LayerNorm(EMBEDDING) for _ in range(config.layers)]
            if not config.vost:
                self.mask_token = nn.Parameter(torch.zeros(1, 1, EMBEDDING))  # unused, but part of every checkpoint
        self.layers = nn.ModuleList(layers)
        self.decoder_norms = nn.ModuleList(norms)
        for parameter in self.layers.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    @property
    def blocks(self) -> list[GatedPropagationLayer | LongShortTermLayer]:
        """The layers by what they are."""
        return list(cast("Sequence[GatedPropagationLayer | LongShortTermLayer]", self.layers))

    def forward(
        self,
        tokens: Tensor,
        size: Size,
        long: LongTermRead,
        short: Sequence[LayerMemory] | None,
        id_emb: Tensor | None,
    ) -> tuple[list[Tensor], list[Pending]]:
        """Return the normed outputs that the decoder takes, tokens `(B, L, C)`, and what each layer leaves."""
        outputs, left = [], []
        identity: Tensor | None = None
        for index, layer in enumerate(self.layers):
            given = LayerInput(index, size, long, None if short is None else short[index], id_emb)
            if self.gated:
                tokens, identity, pending = layer(tokens, identity, given)
            else:
                tokens, pending = layer(tokens, given)
                outputs.append(self.decoder_norms[index](tokens))
            left.append(pending)
        if self.gated:
            assert identity is not None
            outputs.append(self.decoder_norms[0](torch.cat((tokens, identity), 2)))
        return outputs, left


class AOTNetwork(nn.Module):
    """A network of either family. Images are normalised RGB of 16 a + 1 pixels a side (Swin: 16 a).

    Args:
        config: which of the released forms.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        x4, x8, x16, last = self.encoder.channels
        self.encoder_projector = nn.Conv2d(last, EMBEDDING, 1)
        nn.init.xavier_uniform_(self.encoder_projector.weight)
        self.LSTT = LongShortTermTransformer(config)
        gated = config.family == "deaot"
        self.decoder = FPNDecoder(
            2 * EMBEDDING if gated else (1 + config.layers) * EMBEDDING,
            EMBEDDING,
            classes=CLASSES,
            shortcuts=(x4, x8, x16),
            align_corners=config.align_corners,
        )
        kernel = STRIDE + 1 if config.align_corners else STRIDE
        padding = STRIDE // 2 if config.align_corners else 0
        self.patch_wise_id_bank = nn.Conv2d(config.id_channels, EMBEDDING, kernel, stride=STRIDE, padding=padding)
        nn.init.orthogonal_(self.patch_wise_id_bank.weight.view(EMBEDDING, -1), gain=kernel**-2)
        if gated:
            self.id_norm = nn.LayerNorm(EMBEDDING)
        self.cur_pos_emb: nn.Parameter | None = None
        self.mem_pos_emb: nn.Parameter | None = None
        if config.temporal_position:
            width = EMBEDDING // 2 if gated else EMBEDDING
            spread = 0.05 if config.vost else 0.02
            self.cur_pos_emb = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, width), std=spread))
            self.mem_pos_emb = nn.Parameter(nn.init.trunc_normal_(torch.zeros(TEMPORAL_SLOTS, width), std=spread))
        for module in self.encoder.frozen():
            module.requires_grad_(False)

    @property
    def heads(self) -> int:
        """Heads of the long-term attention."""
        return 1 if self.config.family == "deaot" else 8

    def encode_image(self, image: Tensor) -> Features:
        """Return the features of `(B, 3, H, W)`."""
        x4, x8, x16, last = self.encoder(image)
        return Features(x4, x8, x16, self.encoder_projector(last))

    def one_hot(self, labels: Tensor, *, ignore: bool = False) -> Tensor:
        """Return the identity bank's input `(B, 11 or 12, H, W)` of label maps `(B, H, W)` of 0 ... 10.

        Args:
            labels: integers; others than 0 ... 10 belong to no channel.
            ignore: mark pixels of 255 in the 12th channel, for networks that have one.
        """
        values = torch.arange(self.config.id_channels, device=labels.device)
        if self.config.vost:
            values[CLASSES] = VOID if ignore else -1
        kind = self.patch_wise_id_bank.weight.dtype
        return (labels.unsqueeze(1) == values.view(1, -1, 1, 1)).to(kind)

    def encode_identity(self, one_hot: Tensor) -> Tensor:
        """Return the identity embedding `(B, L, 256)` of `one_hot` or soft masks `(B, 11 or 12, H, W)`."""
        tokens = to_tokens(self.patch_wise_id_bank(one_hot))
        return self.id_norm(tokens) if self.config.family == "deaot" else tokens

    def propagate(
        self,
        projected: Tensor,
        *,
        long: LongTermRead,
        short: Sequence[LayerMemory] | None = None,
        id_emb: Tensor | None = None,
        groups: int = 1,
    ) -> Propagation:
        """Return what a frame reads from its memories.

        Args:
            projected: `Features.projected` of B images.
            long: long-term memory.
            short: per layer, the previous frame's memory; None on a reference frame.
            id_emb: identity embedding of a reference frame, which is its own memory.
            groups: groups of objects that one image is for; results have B * groups samples.
        """
        size, tokens = Size(*projected.shape[2:]), to_tokens(projected)
        if groups > 1:
            tokens = tokens.repeat_interleave(groups, 0)
            projected = projected.repeat_interleave(groups, 0)
        outputs, pending = self.LSTT(tokens, size, long, short, id_emb)
        maps = [to_map(output, size) for output in outputs]
        if self.config.family == "aot":
            maps = [projected, *maps]
        return Propagation(torch.cat(maps, 1) if len(maps) > 1 else maps[0], pending)

    def write(self, pending: Sequence[Pending], id_emb: Tensor) -> list[LayerMemory]:
        """Return the memory of a frame once its identity embedding `(B, L, 256)` is known."""
        return [layer.write(left, id_emb) for layer, left in zip(self.LSTT.blocks, pending, strict=True)]

    def decode(self, maps: Tensor, features: Features) -> Tensor:
        """Return logits `(B, 11, H / 4, W / 4)`, background first; unused identities are not masked."""
        return self.decoder(maps, self.decoder.skips(features.x16, features.x8, features.x4))


def mask_unused(logits: Tensor, objects: Sequence[int]) -> Tensor:
    """Return logits `(B, 11, ...)` with identities beyond each sample's number of objects at -1e10 (half: -1e4)."""
    count = torch.tensor(list(objects), device=logits.device).view(-1, *(1,) * (logits.ndim - 1))
    channel = torch.arange(logits.shape[1], device=logits.device).view(1, -1, *(1,) * (logits.ndim - 2))
    fill = UNUSED_LOGIT if logits.dtype != torch.float16 else -1e4
    return logits.masked_fill(channel > count, fill)


def _encoder(config: NetworkConfig) -> ResNet | MobileNetV2 | SwinB:
    if config.encoder == "mobilenetv2":
        return MobileNetV2()
    if config.encoder == "swin_base":
        return SwinB()
    return ResNet(BLOCKS[config.encoder])
