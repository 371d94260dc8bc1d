"""What the released networks are and how they run: variants, their memory, and the options of the streaming segmenter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vos_core.config import Config
from vos_core.errors import UsageError

Family = Literal["aot", "deaot"]
EncoderName = Literal["mobilenetv2", "resnet50", "resnet101", "swin_base"]

EMBEDDING = 256
"""Width of tokens, C."""
SLOTS = 10
"""Objects in one group: the identity bank has that many channels beside background."""
TEMPORAL_SLOTS = 4
"""Learned positions in time: training banks hold four frames."""
NO_GAP = 9999
"""Long-term gap of the small variants: the bank stays the reference frame."""


class NetworkConfig(Config):
    """What decides the keys and shapes of a network, and how its maps are resized."""

    family: Family = Field(description="aot: attention blocks; deaot: gated propagation with separate identity branch")
    encoder: EncoderName = Field(description="image encoder")
    layers: int = Field(default=3, ge=1, description="propagation layers")
    temporal_position: bool = Field(default=False, description="learned temporal positions on the long-term keys and the query")
    id_channels: Literal[11, 12] = Field(default=11, description="channels of the identity bank; the 12th marks ignored pixels")
    short_term: Literal["local", "recurrent"] = Field(
        default="local", description="local: 15 x 15 window on the previous frame; recurrent: VOST's AOT, global, own memory"
    )

    @property
    def align_corners(self) -> bool:
        """How maps are up-sampled, and whether inputs are 16 a + 1 (True) or 16 a pixels."""
        return self.encoder != "swin_base"

    @property
    def vost(self) -> bool:
        """Whether this is a form trained by the VOST code."""
        return self.id_channels == 12


class Variant(Config):
    """A released form: its network and the memory its numbers were made with."""

    network: NetworkConfig
    gap: int = Field(description="least frames between two frames of the long-term bank")
    restrict: bool = Field(default=False, description="whether the bank is restricted")
    latter: int = Field(default=7, description="frames of a restricted bank beside the reference")
    lazy_statistics: bool = Field(default=False, description="begin the bank's statistics at its first overflow")
    all_channels: bool = Field(default=False, description="soft-max over all 10 identities, used or not (VOST code)")


def _variants() -> dict[str, Variant]:
    found: dict[str, Variant] = {}
    for family in ("deaot", "aot"):
        for size, layers in (("t", 1), ("s", 2), ("b", 3), ("l", 3)):
            network = NetworkConfig(family=family, encoder="mobilenetv2", layers=layers)
            found[family + size] = Variant(network=network, gap=5 if size == "l" else NO_GAP)
    large: tuple[tuple[str, Family, EncoderName], ...] = (
        ("r50_deaotl", "deaot", "resnet50"),
        ("r50_aotl", "aot", "resnet50"),
        ("r101_aotl", "aot", "resnet101"),
        ("swinb_deaotl", "deaot", "swin_base"),
        ("swinb_aotl", "aot", "swin_base"),
    )
    for name, family, encoder in large:
        plain = NetworkConfig(family=family, encoder=encoder)
        found[name] = Variant(network=plain, gap=5)
        if encoder != "resnet50":
            continue
        restricted = plain.model_copy(update={"temporal_position": True})
        found[f"{name}_rmem"] = Variant(network=restricted, gap=5, restrict=True)
        vost: dict[str, object] = {"id_channels": 12, "short_term": "recurrent" if family == "aot" else "local"}
        found[f"{name}_vost"] = Variant(network=plain.model_copy(update=vost), gap=5, all_channels=True)
        found[f"{name}_rmem_vost"] = Variant(
            network=restricted.model_copy(update=vost),
            gap=5,
            restrict=True,
            latter=8,
            lazy_statistics=family == "aot",
            all_channels=True,
        )
    first = "r50_deaotl_rmem"
    return {first: found[first], **found}


VARIANTS = _variants()
"""Variant name -> what it is; the first is the default."""
NOT_BUILT = {"rs50": "ResNeSt-50", "rs101": "ResNeSt-101", "mobilenetv3": "MobileNetV3"}
"""Beginning of a model's name -> encoder that the original has beside the published ones; no published weights use it."""


def check_variant(name: str, *, beside: tuple[str, ...] = ()) -> None:
    """Raise `UsageError` unless `name` is a variant or one of `beside`."""
    if name in VARIANTS or name in beside:
        return
    encoder = next((encoder for start, encoder in NOT_BUILT.items() if name.startswith(f"{start}_")), None)
    if encoder is not None:
        raise UsageError(
            f"model {name} has a {encoder} encoder, which this package does not have: no published weights use it",
            expected=f"one of: {', '.join(VARIANTS)}",
        )
    raise UsageError(f"there is no model '{name}'", expected=f"one of: {', '.join((*beside, *VARIANTS))}")


class SegmenterConfig(Config):
    """Options of the streaming segmenter; where one is unset the variant's published value holds."""

    restrict_memory: bool | None = Field(default=None, description="keep a restricted bank [unset: as the variant was published]")
    restrict_by_attention: bool = Field(
        default=True, description="drop the least relevant and fresh frame of a full bank; false: the oldest but the first"
    )
    former_mem_len: int = Field(default=1, ge=1, description="frames at the front of a restricted bank")
    latter_mem_len: int | None = Field(
        default=None, ge=1, description="further frames of a restricted bank [unset: default_latter]"
    )
    default_latter: int | None = Field(
        default=None,
        ge=1,
        description="latter_mem_len where it is unset: a benchmark's value [unset: 7, or 8 for variants trained on VOST]",
    )
    lazy_statistics: bool | None = Field(
        default=None, description="begin the bank's statistics when it first overflows [unset: as published]"
    )
    lt_gap: int | None = Field(
        default=None, ge=1, description="least frames between two long-term frames [unset: 5, or 9999 for T, S and B variants]"
    )
    memory_gap_cap: int = Field(
        default=30, ge=0, description="long-term frames that a whole clip may leave: the gap grows to length / this; 0 = never"
    )
    unrestricted_frames: int = Field(
        default=40, ge=2, description="hard bound of a bank that is not restricted; beyond it the oldest but the first leaves"
    )
    st_skip: int = Field(default=1, ge=1, description="the short-term memory is that many frames old")
    tpe: bool | None = Field(default=None, description="use temporal positions [unset: if the network has them]")
    all_channels: bool | None = Field(default=None, description="soft-max also over unused identities [unset: as published]")
    max_resolution: float = Field(
        default=624.0, ge=32, description="bounds the network's input: shorter side (with several scales), longer side 5/3 of it"
    )
    ms: tuple[float, ...] = Field(default=(1.0,), description="test-time augmentation: scales to average over")
    flip: bool = Field(default=False, description="test-time augmentation: average with mirrored copies")
    merged_memory: bool = Field(
        default=False, description="augmented copies remember the merged label (VOST code) instead of each its own"
    )
    use_prev_prob: bool = Field(
        default=False, description="remember probabilities of the own masks instead of the likeliest object"
    )
    output_height: int | None = Field(
        default=None, ge=16, description="compute label maps this high, then nearest to the frame [unset: at the frame's size]"
    )

    @field_validator("ms", mode="before")
    @classmethod
    def _scales(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return (value,) if isinstance(value, int | float) else value

    @field_validator("ms")
    @classmethod
    def _different(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0.1 <= scale <= 4 for scale in value) or len(set(value)) != len(value):
            raise ValueError("must be different scales from 0.1 to 4")
        return value
