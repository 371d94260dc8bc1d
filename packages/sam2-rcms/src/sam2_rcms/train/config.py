"""Everything that a training run can be told, with the published values of stage 1 as defaults (spec 4). Cheap to import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sam2_rcms.config import Size
from vos_core.config import Config
from vos_core.contract import Precision


class FlipStep(Config):
    """Mirror the clip left to right."""

    kind: Literal["flip"] = "flip"
    p: float = Field(default=0.5, ge=0, le=1, description="share of clips")
    consistent: bool = Field(default=True, description="one decision for the clip, or one for each frame")


class AffineStep(Config):
    """Rotate and shear the clip; left out where an object would vanish from the first frame."""

    kind: Literal["affine"] = "affine"
    degrees: float = Field(default=25.0, ge=0, description="largest rotation, degrees")
    shear: float = Field(default=20.0, ge=0, description="largest horizontal shear, degrees")
    attempts: int = Field(default=1, ge=1, description="draws before the clip stays as it is")
    consistent: bool = Field(default=True, description="the same warp for all frames")


class CropStep(Config):
    """Cut one window out of all frames, zeros beyond the image."""

    kind: Literal["crop"] = "crop"
    p: float = Field(default=0.1, ge=0, le=1, description="share of clips")
    sizes: tuple[tuple[int, int], ...] = Field(
        default=((640, 640), (768, 768), (896, 896)), min_length=1, description="windows (height, width), pixels"
    )
    keep_visible: bool = Field(
        default=False, description="leave the crop out where an object would vanish from the first frame; the original does not"
    )


class ResizeStep(Config):
    """Resize images and masks, bilinear with antialiasing."""

    kind: Literal["resize"] = "resize"
    sizes: tuple[int, ...] = Field(default=(1024,), min_length=1, description="sides to draw from, pixels")
    square: bool = Field(default=True, description="both sides, or the shorter one")


class ColourStep(Config):
    """Change brightness, contrast, saturation and hue by up to these shares, in a random order."""

    kind: Literal["colour"] = "colour"
    brightness: float = Field(default=0.1, ge=0)
    contrast: float = Field(default=0.03, ge=0)
    saturation: float = Field(default=0.03, ge=0)
    hue: float = Field(default=0.0, ge=0, le=0.5, description="shift of the colour circle; 0 draws no number")
    consistent: bool = Field(default=True, description="the same change for all frames, or one for each")


class GreyStep(Config):
    """Drop the colours."""

    kind: Literal["grey"] = "grey"
    p: float = Field(default=0.05, ge=0, le=1, description="share of clips")
    consistent: bool = True


class NormaliseStep(Config):
    """Make tensors of mean 0 and deviation 1 by channel; always last."""

    kind: Literal["normalise"] = "normalise"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


TransformStep = Annotated[
    FlipStep | AffineStep | CropStep | ResizeStep | ColourStep | GreyStep | NormaliseStep, Field(discriminator="kind")
]


def published_transforms(*, crop: bool) -> tuple[TransformStep, ...]:
    """Return the list of both stages: with the random crop (base+) or without (large)."""
    return (
        FlipStep(),
        AffineStep(),
        *((CropStep(),) if crop else ()),
        ResizeStep(),
        ColourStep(),
        GreyStep(),
        ColourStep(brightness=0.1, contrast=0.05, saturation=0.05, consistent=False),
        NormaliseStep(),
    )


class SamplerConfig(Config):
    """Which frames and objects make a clip."""

    kind: Literal["uniform", "gap"] = Field(default="uniform", description="consecutive frames, or a walk with gaps")
    num_frames: int = Field(default=8, ge=1, description="frames of a clip")
    max_num_objects: int = Field(default=1, ge=1, description="objects of a clip at most")
    reverse_time_prob: float = Field(default=0.0, ge=0, le=1, description="share of clips shown backwards")
    allow_repeat: bool = Field(default=False, description="uniform: show videos that are too short back and forth")
    gap_options: tuple[int, ...] = Field(default=(1, 2, 3), min_length=1, description="gap: steps to choose from, frames")
    ensure_first_frame_visible: bool = Field(default=True, description="gap: the first frame shows an object")
    consecutive_if_starved: bool = Field(default=False, description="gap: draw consecutive frames where no walk fits")

    @field_validator("gap_options")
    @classmethod
    def _forward(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("gaps must be at least 1 frame")
        return value


class DataConfig(Config):
    """One training set: a data set folder in a known layout, or a folder of frames with a folder of masks."""

    root: Path | None = Field(default=None, description="data set folder")
    layout: str = Field(default="auto", description="its layout: mose, davis, youtube-vos, lvos, folder, ...; auto finds out")
    split: str | None = Field(default="train", description="its split; null where the layout has none")
    img_folder: Path | None = Field(default=None, description="in place of root: <clip>/<frame>.jpg")
    gt_folder: Path | None = Field(default=None, description="with img_folder: <clip>/<frame>.png")
    file_list_txt: Path | None = Field(default=None, description="names of the clips to use, one a line; null = all")
    multiplier: float = Field(default=1.0, gt=0, description="times that an epoch shows each video")

    @model_validator(mode="after")
    def _one_place(self) -> DataConfig:
        if (self.img_folder is None) != (self.gt_folder is None):
            raise ValueError("img_folder and gt_folder belong together")
        if self.root is not None and self.img_folder is not None:
            raise ValueError("give root, or img_folder and gt_folder, not both")
        return self


class PromptConfig(Config):
    """Simulated user input (spec 4.4); the names are those of the original training model."""

    prob_to_use_pt_input_for_train: float = Field(default=0.5, ge=0, le=1, description="share of clips prompted by points")
    prob_to_use_box_input_for_train: float = Field(default=0.5, ge=0, le=1, description="of those, share of boxes")
    prob_to_sample_from_gt_for_train: float = Field(
        default=0.1, ge=0, le=1, description="share of clicks from the whole truth, not from the error"
    )
    num_frames_to_correct_for_train: int = Field(default=2, ge=1, description="frames that get correction clicks, at most")
    rand_frames_to_correct_for_train: bool = Field(default=True, description="draw their number from #conditioning to this")
    num_init_cond_frames_for_train: int = Field(default=2, ge=1, description="frames prompted at the start, at most")
    rand_init_cond_frames_for_train: bool = Field(default=True, description="draw their number from 1 to this")
    num_correction_pt_per_frame: int = Field(default=7, ge=0, description="correction clicks in such a frame")
    add_all_frames_to_correct_as_cond: bool = Field(default=True, description="corrected frames become conditioning frames")
    seed: int = Field(default=42, ge=0, description="of the decisions, the same on all ranks")


class LossConfig(Config):
    """Weights and forms of the four losses (spec 4.5)."""

    loss_mask: float = Field(default=20.0, ge=0)
    loss_dice: float = Field(default=1.0, ge=0)
    loss_iou: float = Field(default=1.0, ge=0)
    loss_class: float = Field(default=1.0, ge=0)
    focal_alpha: float = 0.25
    focal_gamma: float = Field(default=2.0, ge=0)
    supervise_all_iou: bool = Field(default=True, description="the predicted IoU of every mask, or of the best one only")
    iou_use_l1_loss: bool = Field(default=True, description="L1, or squared error")
    pred_obj_scores: bool = Field(default=True, description="supervise the object score")
    focal_gamma_obj_score: float = Field(default=0.0, ge=0)
    focal_alpha_obj_score: float = -1.0
    point_samples: int | None = Field(
        default=None,
        ge=1,
        description="compute mask and dice at so many drawn points, with plain cross-entropy; null = all pixels",
    )
    oversample_ratio: float = Field(default=3.0, ge=1, description="points: candidates for each point kept")
    importance_sample_ratio: float = Field(default=0.75, ge=0, le=1, description="points: share of the most uncertain ones")


class OptimizerConfig(Config):
    """AdamW with a slower image encoder, layer decay and a half cosine (spec 4.6)."""

    base_lr: float = Field(default=5e-6, gt=0)
    vision_lr: float = Field(default=3e-6, gt=0, description="of image_encoder.*")
    end_factor: float = Field(default=0.1, ge=0, le=1, description="last rate over first rate")
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = Field(default=0.1, ge=0)
    layer_decay: float = Field(default=0.9, gt=0, le=1, description="factor a block of the image encoder's trunk")
    clip_norm: float | None = Field(default=0.1, gt=0, description="largest L2 norm of the gradient; null = no clipping")


class TrainConfig(Config):
    """One stage of training."""

    variant: Size = "base_plus"
    image_size: int = Field(default=1024, ge=32, multiple_of=32, description="side of the frames, pixels")
    sigmoid_scale_for_mem_enc: float = Field(default=20.0, description="mask values for the memory encoder: scale")
    sigmoid_bias_for_mem_enc: float = Field(default=-10.0, description="and bias")
    freeze_image_encoder: bool = Field(default=False, description="keep the image encoder as it is, in evaluation mode")
    drop_path_rate: float = Field(default=0.1, ge=0, lt=1, description="stochastic depth of the image encoder's trunk")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="of the memory attention")
    weights: str = Field(
        default="auto",
        description="what to start from: a name, a file, random, auto = SAM 2.1 of the variant; empty = must be given (stage 2)",
    )
    data: tuple[DataConfig, ...] = Field(default=(DataConfig(),), min_length=1, description="training sets, one after the other")
    sampler: SamplerConfig = SamplerConfig()
    transforms: tuple[TransformStep, ...] = Field(default=published_transforms(crop=False), min_length=1)
    prompts: PromptConfig = PromptConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: int = Field(default=20, ge=1)
    steps: int | None = Field(default=None, ge=1, description="optimiser steps in place of epochs; null = epochs")
    batch_size: int = Field(default=1, ge=1, description="clips a rank takes at once")
    accumulate: int = Field(default=1, ge=1, description="batches per step")
    workers: int = Field(default=10, ge=0, description="loader processes")
    precision: Precision = Field(default="bf16", description="of the forward pass; the weights stay float32")
    activation_checkpointing: bool = Field(
        default=False, description="keep only borders between frames and compute the rest again: less memory, a third slower"
    )
    ema_decay: float | None = Field(default=None, gt=0, lt=1, description="average of the weights, such as 0.9999; null = none")
    seed: int = Field(default=123, ge=0)
    log_every: int = Field(default=10, ge=1, description="steps between log lines")
    save_every: int | None = Field(default=None, ge=1, description="steps between checkpoints; null = once an epoch")
    keep: int = Field(default=1, ge=1, description="checkpoints that stay")

    @model_validator(mode="after")
    def _sizes_agree(self) -> TrainConfig:
        if self.transforms[-1].kind != "normalise":
            raise ValueError("the last transform must be normalise")
        resizes = [step for step in self.transforms if isinstance(step, ResizeStep)]
        if not resizes or resizes[-1].sizes != (self.image_size,) or not resizes[-1].square:
            raise ValueError(f"the last resize must be square and lead to image_size ({self.image_size})")
        return self

    @model_validator(mode="after")
    def _something_to_learn(self) -> TrainConfig:
        frames, given = self.sampler.num_frames, self.prompts.num_init_cond_frames_for_train
        # A single frame is always clicked on; given masks are taken as they are, so that nothing would be predicted.
        if 1 < frames <= given and self.prompts.prob_to_use_pt_input_for_train < 1:
            raise ValueError(
                f"of {frames} frames (sampler.num_frames), {given} may be given as masks "
                "(prompts.num_init_cond_frames_for_train), which would leave none to predict"
            )
        return self
