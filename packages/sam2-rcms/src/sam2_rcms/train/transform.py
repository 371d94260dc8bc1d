"""Augmentation of a training clip, step by step as the configuration lists them (spec 4.3).

Images are PIL RGB until the end, masks uint8 tensors `(N, H, W)` of 0 and 1. Flip, crop, resize and grey draw from a
`random.Random`, affine warp and colours from a `torch.Generator`, each in the order of torchvision's `get_params`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

from sam2_rcms.train.config import (
    AffineStep,
    ColourStep,
    CropStep,
    FlipStep,
    GreyStep,
    NormaliseStep,
    ResizeStep,
    TransformStep,
)
from vos_core.errors import ConfigError

Change = Callable[[Image.Image, float], Image.Image]
"""A colour operation with its factor."""
P = TypeVar("P", Image.Image, Tensor)
FILL = (123, 116, 103)
"""What an affine warp shows beyond the image's border."""


@dataclass(slots=True)
class ClipFrames:
    """A clip while it is being augmented.

    Args:
        images: RGB, all of one size.
        masks: per frame uint8 `(N, H, W)` of 0 and 1.
    """

    images: list[Image.Image]
    masks: list[Tensor]


@dataclass(frozen=True, slots=True)
class Draws:
    """The two sources of randomness of one sample."""

    python: random.Random
    torch: torch.Generator

    @classmethod
    def of(cls, seed: int) -> Draws:
        """Return both generators seeded alike."""
        return cls(random.Random(seed), torch.Generator().manual_seed(seed))

    def uniform(self, low: float, high: float) -> float:
        """Return a float32 number from torch's generator, as torchvision draws it."""
        return float(torch.empty(1).uniform_(low, high, generator=self.torch))


def apply_transforms(clip: ClipFrames, steps: Sequence[TransformStep], draws: Draws) -> tuple[Tensor, Tensor]:
    """Return images float32 `(T, 3, H, W)`, normalised, and masks bool `(T, N, H, W)`.

    Raises:
        ConfigError: the steps do not end with `normalise`, or leave frames of different sizes.
    """
    for step in steps:
        if isinstance(step, NormaliseStep):
            continue
        if isinstance(step, FlipStep):
            _flip(clip, step, draws)
        elif isinstance(step, AffineStep):
            _affine(clip, step, draws)
        elif isinstance(step, CropStep):
            _crop(clip, step, draws)
        elif isinstance(step, ResizeStep):
            _resize(clip, step, draws)
        elif isinstance(step, ColourStep):
            _colour(clip, step, draws)
        else:
            _grey(clip, step, draws)
    last = steps[-1] if steps else None
    if not isinstance(last, NormaliseStep):
        raise ConfigError("the list of transforms does not end with normalise", fix="Append {kind: normalise}")
    mean, std = (torch.tensor(values)[:, None, None] for values in (last.mean, last.std))
    images = torch.stack([(TF.pil_to_tensor(image).float() / 255 - mean) / std for image in clip.images])
    return images, torch.stack(clip.masks).bool()


def _flip(clip: ClipFrames, step: FlipStep, draws: Draws) -> None:
    if step.consistent:
        chosen = [draws.python.random() < step.p] * len(clip.images)
    else:
        chosen = [draws.python.random() < step.p for _ in clip.images]
    for t, flipped in enumerate(chosen):
        if flipped:
            clip.images[t] = clip.images[t].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            clip.masks[t] = clip.masks[t].flip(-1)


def _affine(clip: ClipFrames, step: AffineStep, draws: Draws) -> None:
    """Warp the clip, or leave it as it is when an object would vanish from the first frame in every attempt."""
    for _ in range(step.attempts):
        images: list[Image.Image] = []
        masks: list[Tensor] = []
        parameters: tuple[float, float] | None = None
        for image, mask in zip(clip.images, clip.masks, strict=True):
            if parameters is None or not step.consistent:
                parameters = draws.uniform(-step.degrees, step.degrees), draws.uniform(-step.shear, step.shear)
            angle, shear = parameters
            warped = _warp(mask, angle, shear, InterpolationMode.NEAREST, 0)
            if not images and not bool(warped.flatten(1).any(1).all()):
                break  # before any image is warped: that is the slow part
            images.append(_warp(image, angle, shear, InterpolationMode.BILINEAR, list(FILL)))
            masks.append(warped)
        else:
            clip.images, clip.masks = images, masks
            return


def _warp(picture: P, angle: float, shear: float, mode: InterpolationMode, fill: int | list[int]) -> P:
    warped: P = TF.affine(picture, angle=angle, translate=[0, 0], scale=1.0, shear=[shear, 0.0], interpolation=mode, fill=fill)
    return warped


def _crop(clip: ClipFrames, step: CropStep, draws: Draws) -> None:
    """Cut one window out of all frames, padded with zeros at the right and bottom where the frames are smaller."""
    if draws.python.random() > step.p:
        return
    height, width = draws.python.choice(step.sizes)
    full_width, full_height = clip.images[0].size
    padded_height, padded_width = max(full_height, height), max(full_width, width)
    top = draws.python.randint(0, padded_height - height) if padded_height > height else 0
    left = draws.python.randint(0, padded_width - width) if padded_width > width else 0
    box = (left, top, left + width, top + height)
    masks = [_cut(mask, top, left, height, width) for mask in clip.masks]
    if step.keep_visible and not bool(masks[0].flatten(1).any(1).all()):
        return
    clip.images = [image.crop(box) for image in clip.images]  # Pillow fills with zeros beyond the image
    clip.masks = masks


def _cut(mask: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    part = mask[..., top : top + height, left : left + width]
    return torch.nn.functional.pad(part, (0, width - part.shape[-1], 0, height - part.shape[-2]))


def _resize(clip: ClipFrames, step: ResizeStep, draws: Draws) -> None:
    side = draws.python.choice(step.sizes)  # drawn even from one size: it moves the numbers after it
    full_width, full_height = clip.images[0].size
    if step.square:
        height, width = side, side
    else:
        short = min(full_width, full_height)
        height, width = round(full_height * side / short), round(full_width * side / short)
    clip.images = [image.resize((width, height), Image.Resampling.BILINEAR) for image in clip.images]
    clip.masks = [
        TF.resize(mask, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True) for mask in clip.masks
    ]


def _colour(clip: ClipFrames, step: ColourStep, draws: Draws) -> None:
    parameters = None
    for t, image in enumerate(clip.images):
        if parameters is None or not step.consistent:
            parameters = _colour_parameters(step, draws)
        for change, factor in parameters:
            image = change(image, factor)
        clip.images[t] = image


def _colour_parameters(step: ColourStep, draws: Draws) -> list[tuple[Change, float]]:
    order = torch.randperm(4, generator=draws.torch).tolist()
    changes = []
    for change, strength in (
        (TF.adjust_brightness, step.brightness),
        (TF.adjust_contrast, step.contrast),
        (TF.adjust_saturation, step.saturation),
    ):
        changes.append((change, draws.uniform(max(0.0, 1 - strength), 1 + strength)))
    hue = (TF.adjust_hue, draws.uniform(-step.hue, step.hue)) if step.hue else None
    return [change for change in ((changes[i] if i < 3 else hue) for i in order) if change is not None]


def _grey(clip: ClipFrames, step: GreyStep, draws: Draws) -> None:
    if step.consistent:
        chosen = [draws.python.random() < step.p] * len(clip.images)
    else:
        chosen = [draws.python.random() < step.p for _ in clip.images]
    clip.images = [
        image.convert("L").convert("RGB") if greyed else image for image, greyed in zip(clip.images, chosen, strict=True)
    ]
