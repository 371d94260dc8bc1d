"""What training and evaluation read: the images of one object with their masks, in batches. Data readers implement it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Samples:
    """A batch: images float32 `(B, 3, H, W)` 0-1 RGB without normalisation, masks float32 `(B, 1, H, W)` 0-1, soft at borders."""

    images: Tensor
    masks: Tensor

    def to(self, device: torch.device | str) -> Samples:
        """Return the batch on `device`, images in NCHW order: strides decide which kernels run, and so the last digits."""
        return Samples(self.images.to(device, non_blocking=True).contiguous(), self.masks.to(device, non_blocking=True))


class ObjectImages(Protocol):
    """All images of one object, cropped and resized to one size as its data set says."""

    @property
    def name(self) -> str:
        """What records call `data_dir`: the sequence name for DAVIS, else the object's folder."""
        ...

    @property
    def cropped(self) -> bool:
        """Whether `read` crops at random, so that a repeated read differs."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int], *, draw: int) -> Samples:
        """Return the images at `indices` in that order.

        Args:
            indices: places in the sorted list of images.
            draw: number of the pass; random crops depend on (seed, draw, index) alone.

        Raises:
            FrameError: an image that is missing, unreadable or of another size than its mask.
            MaskError: a mask that is missing or unreadable.
        """
        ...


class HeldImages:
    """Images that are already tensors, for tests, generated data and annotated first frames.

    Args:
        name: of the object.
        samples: all of them.
    """

    cropped = False

    def __init__(self, name: str, samples: Samples) -> None:
        self.name, self.samples = name, samples

    def __len__(self) -> int:
        return self.samples.images.shape[0]

    def read(self, indices: Sequence[int], *, draw: int) -> Samples:
        """Return the images at `indices`."""
        chosen = list(indices)
        return Samples(self.samples.images[chosen], self.samples.masks[chosen])
