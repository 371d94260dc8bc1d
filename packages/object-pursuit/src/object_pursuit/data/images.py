"""One object's images with masks as the network takes them: cropped, resized by Pillow, scaled to 0-1 (spec 4, "Common")."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from object_pursuit.data.order import crop_box, crop_offset
from object_pursuit.samples import Samples
from vos_core.errors import LayoutError, MaskError
from vos_core.io.images import read_image
from vos_core.io.png import INDEXED, png_header, read_indices
from vos_core.metrics.source import fit_rounding

Label = int | Literal["any", "raw"]
"""Which values of a mask are the object: an id; `any` value of a label map; `raw` keeps the original's arithmetic."""
Size = tuple[int, int]
"""(height, width) in pixels."""

DEFAULT_SIZE: Size = (256, 256)
CACHE_BYTES = 256 * 2**20
"""Decoded pictures that one object keeps; the rest is decoded again whenever it is asked for."""
_GREY_LABELS = 128
"""A grey mask whose brightest value is below this is a label map and not a picture of one object."""


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """The annotated images of one object, described and not yet read.

    Args:
        name: unique in its data set.
        data_dir: what records of a pursuit call it: the sequence for DAVIS, the object's folder otherwise.
        images: image files in order.
        masks: their masks, one each.
        label: which mask values are the object.
        crop: whether training takes random squares (DAVIS, CO3D, YouTube-VOS) or the whole image.
    """

    name: str
    data_dir: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    label: Label = "any"
    crop: bool = False

    def __post_init__(self) -> None:
        if len(self.images) != len(self.masks) or not self.images:
            raise LayoutError(
                f"object '{self.name}' has {len(self.images)} images and {len(self.masks)} masks", expected="one mask per image"
            )

    def __len__(self) -> int:
        return len(self.images)


class ObjectFolder:
    """The images of one object, read from files: the `ObjectImages` of every data set on disk.

    Args:
        entry: which files.
        size: (height, width) of the result.
        crop: take a random square before the resize; None = as `entry` says.
        seed: of the crops.
        cache_bytes: decoded pictures kept in memory (resized ones where there is no crop).
    """

    def __init__(
        self,
        entry: ObjectEntry,
        *,
        size: Size = DEFAULT_SIZE,
        crop: bool | None = None,
        seed: int = 0,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.entry, self.size, self.seed = entry, size, seed
        self._cropped = entry.crop if crop is None else crop
        self._cache: dict[int, tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], bool]] = {}
        self._room = cache_bytes

    @property
    def name(self) -> str:
        """What records call `data_dir`: the sequence name for DAVIS, else the object's folder."""
        return self.entry.data_dir

    @property
    def cropped(self) -> bool:
        """Whether `read` crops at random."""
        return self._cropped

    def __len__(self) -> int:
        return len(self.entry)

    def pair(self, index: int, rng: random.Random | None = None) -> tuple[Tensor, Tensor]:
        """Return image `(3, H, W)` and mask `(1, H, W)`, float32 in 0-1, the mask soft at borders.

        Args:
            index: which image.
            rng: where the crop's place is drawn from; the middle is taken without one.

        Raises:
            FrameError: an image that cannot be read.
            MaskError: a mask that cannot be read or is of another size than its image.
        """
        rgb, mask, hard = self._decoded(index)
        if self._cropped:
            height, width = mask.shape
            offset = abs(width - height) // 2 if rng is None else crop_offset(width, height, rng)
            box = crop_box(width, height, offset)
            rgb, mask = _resized(rgb, mask, self.size, hard=hard, box=box)
        return _scaled(rgb).permute(2, 0, 1).contiguous(), _scaled(mask)[None]

    def read(self, indices: Sequence[int], *, draw: int) -> Samples:
        """Return the images at `indices`; crops depend on (seed, draw, place in `indices`, index) alone.

        The place counts because few-shot fitting reads one image many times in a batch.

        Raises:
            FrameError: an image that cannot be read.
            MaskError: a mask that cannot be read or is of another size than its image.
        """
        pairs = [self.pair(index, _rng(self.seed, draw, place, index)) for place, index in enumerate(indices)]
        return Samples(torch.stack([image for image, _ in pairs]), torch.stack([mask for _, mask in pairs]))

    def _decoded(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], bool]:
        """Return uint8 image and mask, resized unless a crop comes first, and whether the mask must keep its exact values."""
        found = self._cache.get(index)
        if found is not None:
            return found
        rgb = read_image(self.entry.images[index])
        read, hard = read_object_mask(self.entry.masks[index], self.entry.label)
        mask = fit_rounding(read, rgb.shape[:2]).astype(np.uint8, copy=False)
        if mask.shape != rgb.shape[:2]:  # more than a resizer's rounding
            raise MaskError(
                f"mask {self.entry.masks[index]} is {mask.shape[1]}x{mask.shape[0]}",
                expected=f"{rgb.shape[1]}x{rgb.shape[0]}, the size of {self.entry.images[index]}",
                fix="Give image and mask the same size",
            )
        if not self._cropped:
            rgb, mask = _resized(rgb, mask, self.size, hard=hard)
        if rgb.nbytes + mask.nbytes <= self._room:
            self._room -= rgb.nbytes + mask.nbytes
            self._cache[index] = (rgb, mask, hard)
        return rgb, mask, hard


def read_object_mask(path: Path, label: Label = "any") -> tuple[npt.NDArray[np.uint8], bool]:
    """Return an object's mask, uint8 `(H, W)`, and whether it is hard: resized by the nearest pixel, as palette masks are.

    Grey masks and pictures (their first channel) come as they are, soft borders included. Of label maps, `any` and an id give
    0 and 1; `raw` gives the labels themselves, which the original divides by 255 where one exceeds 1.

    Raises:
        MaskError: the file is missing, damaged, or has 16 bits.
    """
    if path.suffix.lower() == ".png" and png_header(path).colour == INDEXED:
        values, indexed = read_indices(path), True
    else:
        values, indexed = _picture(path), False
    if values.dtype != np.uint8:
        raise MaskError(f"mask {path} has 16 bits", expected="8 bits", fix="Save it as a palette or grey PNG of 8 bits")
    if label == "raw":
        return values.astype(np.uint8), indexed
    if label == "any":
        if indexed or 1 < int(values.max(initial=0)) < _GREY_LABELS:
            return (values > 0).astype(np.uint8), True
        return values.astype(np.uint8), False
    return (values == label).astype(np.uint8), True


def _picture(path: Path) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            image.load()
            values = np.asarray(image)
    except FileNotFoundError as error:
        raise MaskError(f"mask {path} does not exist", fix="Check the path") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise MaskError(f"mask {path} is damaged: {error}", expected="a whole image file", fix="Copy it again") from error
    values = values[..., 0] if values.ndim == 3 else values
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def _resized(
    rgb: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.uint8],
    size: Size,
    *,
    hard: bool,
    box: tuple[int, int, int, int] | None = None,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    image, labels = Image.fromarray(rgb), Image.fromarray(mask)
    if box is not None:  # crop first: `resize(box=...)` would let the filter see pixels outside
        image, labels = image.crop(box), labels.crop(box)
    target = size[::-1]
    resample = Image.Resampling.NEAREST if hard else Image.Resampling.BICUBIC
    return np.asarray(image.resize(target, Image.Resampling.BICUBIC)), np.asarray(labels.resize(target, resample))


def _scaled(values: npt.NDArray[np.uint8]) -> Tensor:
    """Return float32; divided by 255 only where some value exceeds 1, so that masks of 0 and 1 stay what they are."""
    tensor = torch.from_numpy(values.astype(np.float32))
    return tensor.div_(255) if values.max(initial=0) > 1 else tensor


def resize_frame(rgb: npt.NDArray[np.uint8], size: Size) -> Tensor:
    """Return a frame `(H, W, 3)` as the network's input, float32 `(3, *size)` in 0-1."""
    resized = Image.fromarray(rgb).resize(size[::-1], Image.Resampling.BICUBIC)
    return _scaled(np.asarray(resized)).permute(2, 0, 1).contiguous()


def resize_truth(mask: npt.NDArray[np.bool_], size: Size) -> Tensor:
    """Return a binary mask `(H, W)` as a training target, float32 `(1, *size)` in 0-1, soft at borders like a grey file's."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return _scaled(np.asarray(grey.resize(size[::-1], Image.Resampling.BICUBIC)))[None]


def _rng(*parts: int) -> random.Random:
    return random.Random(int(np.random.SeedSequence(parts).generate_state(2, np.uint64)[0]))
