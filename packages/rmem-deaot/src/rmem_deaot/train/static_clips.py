"""Pseudo clips from still images: one picture and its objects, warped anew for every frame (spec section 4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from rmem_deaot.config import SLOTS
from rmem_deaot.train.augment import recoloured
from rmem_deaot.train.pixels import Labels, PixelClip, object_pixels, reindexed
from rmem_deaot.train.stages import Augmentation
from vos_core.data.static import ImageMask
from vos_core.errors import LayoutError, MaskError
from vos_core.io.frames import read_image
from vos_core.io.masks import read_mask
from vos_core.training.clip_augment import Affine, ColourJitter, ResizedCrop, flip


class StaticClips:
    """Training clips of still images.

    Args:
        images: each is used `repeat` times an epoch.
        frames: of a training clip.
        size: side in pixels.
        augmentation: v1 changes colours slightly in every frame, v2 as in videos.

    Raises:
        LayoutError: there are no images.
    """

    def __init__(self, images: Sequence[ImageMask], *, frames: int, size: int, augmentation: Augmentation = "v1") -> None:
        self.images = [item for item in images for _ in range(item.repeat)]
        self.frames, self.size, self.augmentation = frames, size, augmentation
        if not self.images:
            raise LayoutError("the sets of still images are empty", fix="Give --static_root with images and masks")

    def __len__(self) -> int:
        return len(self.images)

    def clip(self, index: int, rng: np.random.Generator) -> PixelClip:
        """Return one pseudo clip of image `index`, objects in random order.

        Raises:
            FrameError: the image cannot be read.
            MaskError: the mask cannot be read or has another size.
        """
        item = self.images[index]
        image, mask = Image.fromarray(read_image(item.image)), Image.fromarray(read_labels(item))
        if (image.width, image.height) != mask.size:
            raise MaskError(
                f"mask {item.mask} is {mask.width}x{mask.height}",
                expected=f"{image.width}x{image.height} like its image {item.image}",
            )
        if rng.random() < 0.5:
            image, mask = flip(image), flip(mask)
        images, labels = [], []
        for frame in range(self.frames):
            view, label = (image, mask) if frame == 0 else _moved(image, mask, rng)
            if self.augmentation == "v1":
                view = ColourJitter.draw(rng, brightness=0.1, contrast=0.1, saturation=0.1, hue=0.03).image(view)
            else:
                view = recoloured(view, rng)
            crop = ResizedCrop.draw(rng, view.height, view.width, size=self.size, scale=(0.8, 1.0))
            images.append(np.asarray(crop.image(view)))
            labels.append(np.asarray(crop.mask(label)))
        ids = [int(object_id) for object_id in rng.permutation(list(object_pixels(labels[0])))]
        return reindexed(images, labels, ids[:SLOTS])


def read_labels(item: ImageMask) -> Labels:
    """Return the label map of a still image: ids, or 1 where a grey mask is above half; raises `MaskError`."""
    if item.mask_kind == "binary":
        return read_mask(item.mask, kind="binary", threshold=128).astype(np.uint8)
    label = read_mask(item.mask)
    if label.dtype != np.uint8:
        raise MaskError(f"mask {item.mask} has 16-bit ids", expected="ids up to 254", fix="Renumber the objects")
    return label.astype(np.uint8)


def _moved(image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Return another look at the picture: mirrored three times of ten, warped always."""
    if rng.random() < 0.3:
        image, mask = flip(image), flip(mask)
    warp = Affine.draw(rng, degrees=20, shear=10, scale=(0.9, 1.1))
    shift = (round(rng.uniform(-0.1, 0.1) * image.width), round(rng.uniform(-0.1, 0.1) * image.height))
    warp = replace(warp, translate=shift)
    return warp.image(image), warp.mask(mask)
