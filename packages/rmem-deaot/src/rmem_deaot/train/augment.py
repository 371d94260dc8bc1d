"""What is done to the frames of a training clip: one crop for all, and for v2 colour and blur for each (spec section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageFilter

from rmem_deaot.config import SLOTS
from rmem_deaot.train.pixels import LEAST_PIXELS, Labels, PixelClip, object_pixels, reindexed
from vos_core.training.clip_augment import MEAN_COLOUR, ColourJitter, grey
from vos_core.types import RgbImage

SIZE = 465
"""Side of a training sample in pixels; 464 where inputs are multiples of 16."""
SHORT_SIDE = 480
"""Shorter side that a clip is brought to, times 0.7-1.3, for samples of `SIZE`."""
TRIES = 5


def random_crop(images: Sequence[RgbImage], labels: Sequence[Labels], rng: np.random.Generator, *, size: int) -> PixelClip:
    """Return a clip of `size` x `size`: scaled, cut where an object is, mirrored half of the times, padded at random.

    Objects that the reference does not show are background.

    Args:
        images: uint8 `(H, W, 3)` each.
        labels: uint8 `(H, W)` each, any ids.
        rng: of everything random.
        size: side in pixels.
    """
    height, width = labels[0].shape
    factor = SHORT_SIDE / SIZE * size * rng.uniform(0.7, 1.3) / min(height, width)
    full = (max(1, round(width * factor)), max(1, round(height * factor)))
    images = [np.asarray(cv2.resize(image, full, interpolation=cv2.INTER_CUBIC), np.uint8) for image in images]
    labels = [np.asarray(cv2.resize(label, full, interpolation=cv2.INTER_NEAREST), np.uint8) for label in labels]
    for _ in range(TRIES):
        top, left = (int(rng.integers(max(0, side - size) + 1)) for side in (full[1], full[0]))
        box = (slice(top, top + size), slice(left, left + size))
        seen = object_pixels(labels[0][box])
        if max(seen.values(), default=0) > LEAST_PIXELS:
            break
    mirror = -1 if rng.random() < 0.5 else 1
    images = [image[box][:, ::mirror] for image in images]
    labels = [label[box][:, ::mirror] for label in labels]
    lack = [size - side for side in labels[0].shape]
    if any(lack):
        before = [int(rng.integers(side + 1)) for side in lack]
        images = [_padded(image, before, size, MEAN_COLOUR) for image in images]
        labels = [_padded(label, before, size, 0) for label in labels]
    return reindexed(images, labels, list(seen)[:SLOTS])


def recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return an image as v2 changes it: jitter (four times of five), grey (one of five), blur (three of ten)."""
    if rng.random() < 0.8:
        image = ColourJitter.draw(rng, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1).image(image)
    if rng.random() < 0.2:
        image = grey(image)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
    return image


def _padded(picture: RgbImage, before: Sequence[int], size: int, fill: tuple[int, int, int] | int) -> RgbImage:
    whole = np.empty((size, size, *picture.shape[2:]), np.uint8)
    whole[...] = fill
    whole[before[0] : before[0] + picture.shape[0], before[1] : before[1] + picture.shape[1]] = picture
    return whole
