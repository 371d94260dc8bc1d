"""What a network is made of, as data: layer tables of the generated parts, encoders, and the presets that combine them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vos_core.config import Config

LayerTable = dict[str, tuple[int, int, int, int]]
"""Layer name -> (outputs, inputs, kernel, kernel), in the order of the checkpoints."""
Encoder = Literal["resnet18", "small", "generated"]

DECODER_LAYERS = (
    "aspp.aspp1.atrous_conv",
    "aspp.aspp2.atrous_conv",
    "aspp.aspp3.atrous_conv",
    "aspp.aspp4.atrous_conv",
    "aspp.global_avg_pool.1",
    "aspp.conv1",
    "decoder.conv1",
    "decoder.last_conv.0",
    "decoder.last_conv.4",
    "decoder.last_conv.8",
)


def decoder_table(*, high: int, low: int, aspp: int, reduced: int, low_reduced: int, hidden: int, last: int) -> LayerTable:
    """Return the table of ASPP and decoder.

    Args:
        high: channels of the encoder's last stage.
        low: channels of its low-level stage.
        aspp: channels of each of the five ASPP branches.
        reduced: channels after them.
        low_reduced: channels that the low-level stage is reduced to.
        hidden: outputs of the decoder's first convolution.
        last: outputs of its second one.
    """
    shapes = (
        (aspp, high, 1),
        (aspp, high, 3),
        (aspp, high, 3),
        (aspp, high, 3),
        (aspp, high, 1),
        (reduced, 5 * aspp, 1),
        (low_reduced, low, 1),
        (hidden, reduced + low_reduced, 3),
        (last, hidden, 3),
        (1, last, 1),
    )
    return {name: (out, inside, k, k) for name, (out, inside, k) in zip(DECODER_LAYERS, shapes, strict=True)}


def encoder_table() -> LayerTable:
    """Return the table of the ResNet-18 encoder with a multi-grid last stage (22 layers)."""
    table: LayerTable = {"backbone.conv1": (64, 3, 7, 7)}
    width = 64
    for stage, (channels, blocks) in enumerate(((64, 2), (128, 2), (256, 2), (512, 3)), start=1):
        for block in range(blocks):
            inside = width if block == 0 else channels
            table[f"backbone.layer{stage}.{block}.conv1"] = (channels, inside, 3, 3)
            table[f"backbone.layer{stage}.{block}.conv2"] = (channels, channels, 3, 3)
            if inside != channels:
                table[f"backbone.layer{stage}.{block}.downsample.0"] = (channels, inside, 1, 1)
        width = channels
    return table


DECODER_TABLE = decoder_table(high=512, low=64, aspp=256, reduced=256, low_reduced=48, hidden=256, last=256)
FULL_TABLE: LayerTable = {**encoder_table(), **DECODER_TABLE}
SMALL_TABLE = decoder_table(high=48, low=24, aspp=24, reduced=32, low_reduced=8, hidden=32, last=32)


class NetworkConfig(Config):
    """Which network: the defaults are those of the published weights (`--use_backbone`)."""

    z_dim: int = Field(default=100, ge=1, description="numbers in a code")
    encoder: Encoder = Field(
        default="resnet18",
        description="resnet18: shared by all objects; small: three convolutions, for the tiny preset; generated: from the code",
    )
    table: LayerTable = Field(default_factory=lambda: dict(DECODER_TABLE), description="layers that the hypernetwork generates")

    @field_validator("table")
    @classmethod
    def _complete(cls, value: LayerTable) -> LayerTable:
        missing = [name for name in DECODER_LAYERS if name not in value]
        if missing:
            raise ValueError(f"lacks {', '.join(missing)}")
        for name, (out, inside, height, width) in value.items():
            if min(out, inside, height, width) < 1 or height != width:
                raise ValueError(f"{name} has shape {(out, inside, height, width)}; kernels are square and sizes positive")
        return value


PRESETS: dict[str, NetworkConfig] = {
    "backbone": NetworkConfig(),
    "full": NetworkConfig(encoder="generated", table=FULL_TABLE),
    "tiny": NetworkConfig(z_dim=24, encoder="small", table=SMALL_TABLE),
}
"""`backbone`: a shared ResNet-18 and a generated decoder (published weights); `full`: everything generated; `tiny`: for 64-pixel
images and tests (0.38 million parameters)."""


class SegmenterConfig(Config):
    """One-shot segmentation of a clip: how a code is fitted to the given masks, and how frames are shown to the network."""

    model: Literal["coeffnet", "singlenet"] = Field(
        default="coeffnet", description="what is fitted to a mask: coefficients of the codes in the weights, or a free code"
    )
    epochs: int = Field(default=20, ge=0, description="passes over the clip's length, with crops of the annotated frame alone")
    steps: int | None = Field(
        default=None, ge=0, description="training steps of a fit; unset = `epochs` times frames / `batch_size`, as published"
    )
    lr: float = Field(default=4e-4, gt=0, description="learning rate of RMSprop")
    batch_size: int = Field(default=8, ge=1, description="crops in a training step")
    resize: tuple[int, int] = Field(default=(256, 256), description="height and width that images are resized to")
    window: Literal["frame", "square"] = Field(
        default="frame",
        description="frame: the whole frame is resized; square: squares of the shorter side, the geometry of training, averaged",
    )
    crop: bool = Field(default=True, description="fit on random squares of the annotated frame, as on DAVIS; no: on all of it")
    frames_at_once: int = Field(
        default=8, ge=1, description="frames whose statistics the norms share, as published; 1 never looks ahead"
    )
    objects_at_once: int = Field(default=4, ge=1, description="codes in one pass of the generated networks")
    encoder_norm: Literal["batch", "running"] = Field(
        default="batch", description="statistics of the encoder's norms; the published numbers are those of the batch"
    )
    bases: str | None = Field(
        default=None, description="codes to combine instead of those in the weights: a folder of code files, or a checkpoint"
    )
    backbone: str | None = Field(default=None, description="file of the encoder, for weights that come without one")
    shots: int = Field(
        default=5, ge=1, description="annotated frames of an object that are kept; further ones replace the oldest"
    )

    @field_validator("resize", mode="before")
    @classmethod
    def _pair(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @field_validator("resize")
    @classmethod
    def _large_enough(cls, value: tuple[int, int]) -> tuple[int, int]:
        if min(value) < 16:
            raise ValueError("must be at least 16 pixels on each side")
        return value
