"""How STCN runs: what it remembers, how far it looks and at which size. Values are the published ones unless changed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from vos_core.config import Config


class SegmenterConfig(Config):
    """Options of the streaming segmenter; the names are those of the original evaluation."""

    top: int = Field(
        default=20, ge=1, description="memory nodes per query that share the soft-max; fewer nodes than this are all used"
    )
    mem_every: int = Field(default=5, ge=1, description="frames between two memory frames; the authors use 3 on DAVIS test-dev")
    include_last: bool = Field(default=False, description="also match against the previous frame, kept in one temporary slot")
    res: int = Field(default=480, description="shorter side in pixels that frames are resized to; -1 keeps their size")
    antialias: bool = Field(
        default=False,
        description="antialias the resize to `res`; the published numbers were made without",
    )
    memory: Literal["fifo", "restricted", "unbounded"] = Field(
        default="fifo",
        description="beyond `memory_frames`, fifo: the oldest without a prompt leaves; restricted: the one that matters least to"
        " the objects and has been looked at often (RMem's rule, 8 frames there); never the first; unbounded: keep all",
    )
    memory_frames: int = Field(
        default=40,
        ge=2,
        description="memory frames kept by `fifo` and `restricted`; 40 every 5 span 200 frames, more than any DAVIS or"
        " YouTube-VOS clip",
    )
    scales: tuple[int, ...] = Field(
        default=(), description="test-time augmentation: shorter sides to average instead of `res`, such as [480, 600]"
    )
    clock: Literal["frames", "names"] = Field(
        default="frames",
        description="what `mem_every` counts: frames given, or numbers in their names (where frames were left out)",
    )
    kernel: bool | None = Field(
        default=None,
        description="kernelised readout (sigma 7 cells); unset = at sizes of 600 and more under `scales`, as published",
    )

    @field_validator("res")
    @classmethod
    def _side(cls, value: int) -> int:
        if value != -1 and value < 16:
            raise ValueError("must be -1 (keep the size) or at least 16 pixels")
        return value

    @field_validator("scales", mode="before")
    @classmethod
    def _sides(cls, value: object) -> object:
        if isinstance(value, str):
            value = [part for part in value.split(",") if part.strip()]
        return (value,) if isinstance(value, int) else value

    @field_validator("scales")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(side < 16 for side in value) or len(set(value)) != len(value):
            raise ValueError("must be different sides of at least 16 pixels")
        return value
