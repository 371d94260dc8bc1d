"""Augmentation of whole clips: parameters are drawn once and applied to every frame and mask, or drawn anew for each.

Images are PIL RGB, masks PIL "L" or "P" label maps (never through a palette). Randomness comes from a NumPy generator alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as TF

Fill = tuple[int, int, int]
MEAN_COLOUR: Fill = (124, 116, 104)
"""ImageNet's mean colour, what warped-in borders show."""


@dataclass(frozen=True, slots=True)
class Affine:
    """One affine warp: degrees, scale factor, shear in degrees (x only), translation in pixels."""

    angle: float = 0.0
    scale: float = 1.0
    shear: float = 0.0
    translate: tuple[int, int] = (0, 0)

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, degrees: float, shear: float = 0.0, scale: tuple[float, float] = (1.0, 1.0)
    ) -> Affine:
        """Return a warp with angle in +-`degrees`, shear in +-`shear` and a scale in the range."""
        return cls(rng.uniform(-degrees, degrees), rng.uniform(*scale), rng.uniform(-shear, shear))

    def image(self, image: Image.Image, *, fill: Fill | int = MEAN_COLOUR, bicubic: bool = True) -> Image.Image:
        """Return `image` warped, bicubic or nearest, with `fill` beyond its borders."""
        return self._apply(image, InterpolationMode.BICUBIC if bicubic else InterpolationMode.NEAREST, fill)

    def mask(self, mask: Image.Image) -> Image.Image:
        """Return the label map warped with the nearest neighbour and 0 beyond its borders."""
        return self._apply(mask, InterpolationMode.NEAREST, 0)

    def _apply(self, picture: Image.Image, mode: InterpolationMode, fill: Fill | int) -> Image.Image:
        colour = list(fill) if isinstance(fill, tuple) else fill
        return TF.affine(
            picture,
            angle=self.angle,
            translate=list(self.translate),
            scale=self.scale,
            shear=[self.shear, 0.0],
            interpolation=mode,
            fill=colour,
        )


@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """A crop `(top, left, height, width)` resized to `size` x `size`: bicubic for images, nearest for masks."""

    top: int
    left: int
    height: int
    width: int
    size: int

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        height: int,
        width: int,
        *,
        size: int,
        scale: tuple[float, float],
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> ResizedCrop:
        """Return a crop with a share of the area in `scale` and a log-uniform aspect in `ratio`; the middle after 10 tries."""
        for _ in range(10):
            area = height * width * rng.uniform(*scale)
            aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return cls(int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w, size)
        w = min(width, round(height * ratio[1])) if width / height > ratio[1] else width
        h = min(height, round(width / ratio[0])) if width / height < ratio[0] else height
        return cls((height - h) // 2, (width - w) // 2, h, w, size)

    def image(self, image: Image.Image) -> Image.Image:
        """Return the crop of an image, Pillow's bicubic."""
        return self._cut(image, Image.Resampling.BICUBIC)

    def mask(self, mask: Image.Image) -> Image.Image:
        """Return the crop of a label map, nearest."""
        return self._cut(mask, Image.Resampling.NEAREST)

    def _cut(self, picture: Image.Image, mode: Image.Resampling) -> Image.Image:
        box = (self.left, self.top, self.left + self.width, self.top + self.height)
        return picture.crop(box).resize((self.size, self.size), mode)


@dataclass(frozen=True, slots=True)
class ColourJitter:
    """Factors of brightness, contrast and saturation (1 = none), a hue shift (-0.5..0.5) and the order they are applied in."""

    factors: tuple[float, float, float]
    hue: float
    order: tuple[int, ...]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, brightness: float, contrast: float, saturation: float, hue: float = 0.0
    ) -> ColourJitter:
        """Return factors uniform in 1 +- each strength (not below 0), the shift in +-`hue`, in a random order."""
        strengths = (brightness, contrast, saturation)
        factors = tuple(float(rng.uniform(max(0.0, 1 - s), 1 + s)) for s in strengths)
        return cls((factors[0], factors[1], factors[2]), float(rng.uniform(-hue, hue)), tuple(map(int, rng.permutation(4))))

    def image(self, image: Image.Image) -> Image.Image:
        """Return the jittered image."""
        for step in self.order:
            if step == 0:
                image = TF.adjust_brightness(image, self.factors[0])
            elif step == 1:
                image = TF.adjust_contrast(image, self.factors[1])
            elif step == 2:
                image = TF.adjust_saturation(image, self.factors[2])
            elif self.hue:
                image = TF.adjust_hue(image, self.hue)
        return image


def grey(image: Image.Image) -> Image.Image:
    """Return the image's luma in all three channels."""
    return image.convert("L").convert("RGB")


def flip(picture: Image.Image) -> Image.Image:
    """Return an image or mask mirrored left to right."""
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def resize_short_side(picture: Image.Image, size: int, *, mask: bool = False) -> Image.Image:
    """Return the picture with its shorter side `size`, the longer one `int(size * long / short)`.

    Pillow's bicubic resizes images, its nearest neighbour masks.
    """
    width, height = picture.size
    if min(width, height) == size:
        return picture
    target = (size, int(size * height / width)) if width < height else (int(size * width / height), size)
    return picture.resize(target, Image.Resampling.NEAREST if mask else Image.Resampling.BICUBIC)
