"""Pseudo clips from still images: three warped views of one picture and its mask."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.interpolate import RBFInterpolator

from stcn_ttt.prepare import normalise
from stcn_ttt.train.objective import Triplets
from stcn_ttt.train.video_data import SIZE
from vos_core.data.static import ImageMask
from vos_core.errors import LayoutError, MaskError
from vos_core.io.frames import read_image
from vos_core.io.masks import read_mask
from vos_core.training.clip_augment import MEAN_COLOUR, Affine, ColourJitter, flip, grey, resize_short_side

CONTROL_POINTS = 12
WARP_SIGMA = 0.02
WARP_SHARE = 0.33


class StaticTriplets:
    """Samples of still images with masks.

    Args:
        images: each is used `repeat` times an epoch.
        size: side of the samples in pixels.

    Raises:
        LayoutError: there are no images.
    """

    def __init__(self, images: Sequence[ImageMask], *, size: int = SIZE) -> None:
        self.images = [item for item in images for _ in range(item.repeat)]
        self.size = size
        if not self.images:
            raise LayoutError("the sets of still images are empty", fix="Give --static_root with images and masks")

    def __len__(self) -> int:
        return len(self.images)

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> Triplets:
        """Return one sample with a leading batch dimension of 1."""
        item = self.images[index]
        image = Image.fromarray(read_image(item.image))
        mask = self._mask(item, (image.height, image.width), rng)
        scaled = Affine.draw(rng, degrees=0, scale=(0.8, 1.5))
        image, mask = scaled.image(image, bicubic=False), scaled.mask(mask)
        if rng.random() < 0.5:
            image, mask = flip(image), flip(mask)
        image = ColourJitter.draw(rng, brightness=0.1, contrast=0.05, saturation=0.05, hue=0.05).image(image)
        if rng.random() < 0.05:
            image = grey(image)
        views = [self._view(image, mask, rng) for _ in range(3)]
        classes = np.stack([labels for _, labels in views])
        return Triplets(torch.stack([picture for picture, _ in views])[None], torch.from_numpy(classes)[None], torch.ones(1, 1))

    @staticmethod
    def _mask(item: ImageMask, size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
        """Return the grey mask; of a label map that of one object drawn."""
        if item.mask_kind == "labels":
            labels = read_mask(item.mask, size=size)
            ids = [int(label) for label in np.unique(labels) if label not in (0, 255)]
            return Image.fromarray(
                np.where(labels == rng.choice(ids), 255, 0).astype(np.uint8) if ids else np.zeros(size, np.uint8)
            )
        mask = Image.fromarray(read_image(item.mask)).convert("L")
        if (mask.height, mask.width) != size:
            raise MaskError(
                f"mask {item.mask} is {mask.width}x{mask.height}", expected=f"{size[1]}x{size[0]} like its image {item.image}"
            )
        return mask

    def _view(
        self, image: Image.Image, mask: Image.Image, rng: np.random.Generator
    ) -> tuple[torch.Tensor, npt.NDArray[np.int64]]:
        warp = Affine.draw(rng, degrees=20, shear=10, scale=(0.9, 1.1))
        image, mask = warp.image(image), warp.image(mask, fill=0)  # the mask is smooth here, too: it is cut at the end
        image, mask = resize_short_side(image, self.size), resize_short_side(mask, self.size, mask=True)
        image, mask = self._cropped(image, mask, rng)
        image = ColourJitter.draw(rng, brightness=0.1, contrast=0.05, saturation=0.05).image(image)
        rgb, grey_mask = np.asarray(image), np.asarray(mask)
        if rng.random() < WARP_SHARE:
            rgb, grey_mask = thin_plate_warp(rgb, grey_mask, rng)
        return normalise(rgb), (grey_mask / 255 > 0.5).astype(np.int64)

    def _cropped(self, image: Image.Image, mask: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
        size, (width, height) = self.size, image.size
        if width < size or height < size:
            room = (max(size, width), max(size, height))
            at = ((room[0] - width) // 2, (room[1] - height) // 2)
            wide, wide_mask = Image.new("RGB", room, MEAN_COLOUR), Image.new("L", room, 0)
            wide.paste(image, at)
            wide_mask.paste(mask, at)
            image, mask, (width, height) = wide, wide_mask, room
        left, top = int(rng.integers(width - size + 1)), int(rng.integers(height - size + 1))
        box = (left, top, left + size, top + size)
        return image.crop(box), mask.crop(box)


def thin_plate_warp(
    rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return picture `(H, W, 3)` and mask `(H, W)` bent by a thin-plate spline through 12 moved points; outside is black."""
    height, width = mask.shape
    rows = rng.permutation(height)[:CONTROL_POINTS] / height
    columns = rng.permutation(width)[:CONTROL_POINTS] / width
    source = np.stack((columns, rows), 1)
    moved = source + rng.normal(scale=WARP_SIGMA, size=source.shape)
    # Where each output pixel comes from: the spline from moved points back to their sources.
    spline = RBFInterpolator(moved, source, kernel="thin_plate_spline")
    grid = np.stack(np.meshgrid(np.arange(width) / width, np.arange(height) / height), -1).reshape(-1, 2)
    places = spline(grid).reshape(height, width, 2).astype(np.float32) * np.array([width, height], np.float32)
    x, y = np.ascontiguousarray(places[..., 0]), np.ascontiguousarray(places[..., 1])
    bent = cv2.remap(rgb, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0, 0, 0))
    return np.asarray(bent, np.uint8), np.asarray(cv2.remap(mask, x, y, cv2.INTER_NEAREST, borderValue=0), np.uint8)
