"""What a SAM 2.1 network is made of, how it remembers, and the presets by name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from vos_core.config import Config

Size = Literal["tiny", "small", "base_plus", "large"]
"""The four released sizes of the image encoder."""


class TrunkConfig(Config):
    """The Hiera image encoder of one size."""

    embed_dim: int = Field(description="channels of the first stage")
    num_heads: int = Field(description="attention heads of the first stage")
    stages: tuple[int, int, int, int] = Field(description="blocks per stage")
    global_att_blocks: tuple[int, ...] = Field(description="blocks that attend to the whole image")
    window_spec: tuple[int, int, int, int] = Field(default=(8, 4, 14, 7), description="side of attention windows, tokens")
    pos_embed_grid: tuple[int, int] = Field(default=(7, 7), description="stored grid of the position embedding")
    drop_path_rate: float = Field(default=0.0, ge=0, lt=1, description="rate of the last block in training; rises linearly to it")


TRUNKS: Mapping[str, TrunkConfig] = MappingProxyType(
    {
        "tiny": TrunkConfig(embed_dim=96, num_heads=1, stages=(1, 2, 7, 2), global_att_blocks=(5, 7, 9)),
        "small": TrunkConfig(embed_dim=96, num_heads=1, stages=(1, 2, 11, 2), global_att_blocks=(7, 10, 13)),
        "base_plus": TrunkConfig(
            embed_dim=112, num_heads=2, stages=(2, 3, 16, 3), global_att_blocks=(12, 16, 20), pos_embed_grid=(14, 14)
        ),
        "large": TrunkConfig(
            embed_dim=144, num_heads=2, stages=(2, 6, 36, 4), global_att_blocks=(23, 33, 43), window_spec=(8, 4, 16, 8)
        ),
    }
)
"""Image encoders by size; spec section 2.1."""


class PredictorConfig(Config):
    """How a video is read and remembered. Names are those of the original; values those of its command line."""

    image_size: int = Field(default=1024, ge=32, description="side in pixels that frames are squashed to; a multiple of 32")
    sigmoid_scale_for_mem_enc: float = Field(default=20.0, description="mask going into memory = sigmoid * scale + bias")
    sigmoid_bias_for_mem_enc: float = Field(
        default=-10.0, description="see sigmoid_scale_for_mem_enc; b+_rcms and l_rcms (MSS): 7.5 and -4"
    )
    num_prev_frames_to_promote: int = Field(
        default=4, ge=0, description="frames kept for good when an object first disappears (RCMS); 0 switches RCMS off"
    )
    low_quality_threshold: float = Field(default=0.6, description="least quality (0-1) of a frame that is kept for good (MQF)")
    rcms_strict_reference: bool = Field(
        default=True,
        description="the original's rule: at frames before an object's first prompt, and in reverse, RCMS acts as it does there; "
        "false = it waits for the first prompt and looks back in the direction of tracking",
    )
    num_maskmem: int = Field(
        default=7, ge=1, le=7, description="spatial memories read: prompts count as one, then num_maskmem - 1"
    )
    max_obj_ptrs_in_encoder: int = Field(default=16, ge=1, description="object pointers read")
    max_cond_frames_in_attn: int = Field(default=-1, description="prompted and promoted frames read; -1 = all, else at least 2")
    memory_temporal_stride_for_eval: int = Field(default=1, ge=1, description="frames between two memories that are read")
    memory_dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="how spatial memories are stored; the original always rounds to bfloat16"
    )
    cache_memory_keys: bool = Field(
        default=False,
        description="keep the attention keys of each memory: less time a frame for 17 MB (bf16: 8) a memory at 1024 pixels",
    )
    non_overlap_masks: bool = Field(default=False, description="give each pixel to one object in what is returned")
    multimask_min_pt_num: int = Field(default=0, ge=0, description="fewest clicks for which three masks are predicted")
    multimask_max_pt_num: int = Field(default=1, ge=0, description="most clicks for which three masks are predicted")
    dynamic_multimask_via_stability: bool = Field(
        default=False, description="replace an unstable single mask by the best of three"
    )
    dynamic_multimask_stability_delta: float = Field(default=0.05, ge=0, description="logits by which stability is probed")
    dynamic_multimask_stability_thresh: float = Field(default=0.98, description="least stability (0-1) of a single mask")
    binarize_mask_from_pts_for_mem_enc: bool = Field(default=False, description="prompted masks go into memory as 0 and 1")
    fill_hole_area: int = Field(default=0, ge=0, description="fill holes of up to this many low-resolution pixels; 0 = none")
    add_all_frames_to_correct_as_cond: bool = Field(
        default=False, description="corrections of tracked frames become conditioning frames, which later propagations keep"
    )
    clear_non_cond_mem_around_input: bool = Field(
        default=False, description="forget tracked memories around a frame that gets a prompt"
    )

    @field_validator("image_size")
    @classmethod
    def _multiple(cls, value: int) -> int:
        if value % 32:
            raise ValueError(f"must be a multiple of 32, such as {max(32, round(value / 32) * 32)}")
        return value

    @field_validator("num_prev_frames_to_promote", mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        # The original's flag is a float; one that is not finite is left to be refused.
        return int(value) if isinstance(value, float) and math.isfinite(value) else value

    @field_validator("low_quality_threshold", "score_thresh", check_fields=False)  # the second one is SegmenterConfig's
    @classmethod
    def _comparable(cls, value: float) -> float:
        if math.isnan(value):
            raise ValueError("must be a number: nothing is above nan")
        return value

    @field_validator("max_cond_frames_in_attn")
    @classmethod
    def _two(cls, value: int) -> int:
        if value != -1 and value < 2:
            raise ValueError("must be -1 (all) or at least 2")
        return value

    @model_validator(mode="after")
    def _clicks(self) -> PredictorConfig:
        if self.multimask_min_pt_num > self.multimask_max_pt_num:
            raise ValueError("multimask_min_pt_num must not exceed multimask_max_pt_num")
        return self


class SegmenterConfig(PredictorConfig):
    """Options of the streaming segmenter: those of the predictor, and what becomes of logits."""

    non_overlap_masks: bool = Field(default=True, description="give each pixel to one object")
    score_thresh: float = Field(default=0.0, description="logits above this belong to the object")
    apply_postprocessing: bool = Field(
        default=False, description="the original's post-processing: stable single masks, binary prompt masks, holes of 8 filled"
    )
    batch_objects: bool = Field(
        default=True, description="compute objects together; false = one after the other, with less memory"
    )


POSTPROCESSING: Mapping[str, Any] = MappingProxyType(
    {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
        "binarize_mask_from_pts_for_mem_enc": True,
        "fill_hole_area": 8,
    }
)
"""What the original's `apply_postprocessing` switches on."""

_MSS = MappingProxyType({"sigmoid_scale_for_mem_enc": 7.5, "sigmoid_bias_for_mem_enc": -4.0})


class Preset(Config):
    """A released form: size of the encoder, options that differ from the defaults, and names of weights that fit."""

    size: Size
    options: Mapping[str, Any] = Field(default_factory=dict)
    weights: tuple[str, ...] = ()


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "b+_rcms": Preset(size="base_plus", options=dict(_MSS), weights=("sam2.1_hiera_b+_MOSEv2_mss_lvt16",)),
        "l_rcms": Preset(size="large", options=dict(_MSS), weights=("sam2.1_hiera_l_MOSEv2_mss_lvt16",)),
        "tiny": Preset(size="tiny", weights=("sam2.1_hiera_tiny",)),
        "small": Preset(size="small", weights=("sam2.1_hiera_small",)),
        "b+": Preset(size="base_plus", weights=("sam2.1_hiera_base_plus",)),
        "l": Preset(size="large", weights=("sam2.1_hiera_large",)),
    }
)
"""Presets by name, the default first. The `_rcms` ones are the MOSEv2 fine-tuned weights with mask scaling (MSS)."""
