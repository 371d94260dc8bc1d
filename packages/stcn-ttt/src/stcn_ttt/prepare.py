"""From a decoded frame and its masks to the network's input, and back."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vos_core.ops.pad import pad_to_multiple, pads_to_multiple, unpad
from vos_core.ops.resize import ResizePolicy, resize, short_side_size
from vos_core.types import RgbImage

PAD_MULTIPLE = 16
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(rgb: RgbImage, *, device: str | torch.device = "cpu") -> Tensor:
    """Return float32 `(3, H, W)`, normalised by ImageNet's statistics, of a uint8 RGB image."""
    image = torch.tensor(rgb, device=device).permute(2, 0, 1).float().div_(255)
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    return image.sub_(mean).div_(std)


def resize_image(image: Tensor, size: tuple[int, int], *, antialias: bool = False) -> Tensor:
    """Return a normalised image `(3, H, W)` at `size` (height, width), bicubic on the tensor as in evaluation."""
    return resize(image, size, ResizePolicy.TORCH_BICUBIC_ANTIALIAS if antialias else ResizePolicy.TORCH_BICUBIC)


def resize_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Return masks `(..., H, W)` at `size` (height, width), nearest neighbour on each one."""
    return resize(mask, size, ResizePolicy.TORCH_NEAREST)


class View:
    """One way to look at a clip: its size for the network and its padding.

    Args:
        height: of the clip's frames, in pixels.
        width: of the clip's frames, in pixels.
        short_side: pixels of the shorter side for the network; -1 keeps the size.
        antialias: for the resize.
        device: where tensors go.
    """

    def __init__(
        self, height: int, width: int, *, short_side: int, antialias: bool = False, device: str | torch.device = "cpu"
    ) -> None:
        self.frame_size = (height, width)
        self.size = short_side_size(height, width, short_side)
        self.antialias, self.device = antialias, device
        self._pads = pads_to_multiple(*self.size, PAD_MULTIPLE)

    def image(self, rgb: RgbImage) -> Tensor:
        """Return the network's input `(1, 3, H', W')`: normalised, resized, padded with the mean colour."""
        return pad_to_multiple(self.normalised(rgb), PAD_MULTIPLE)[0].unsqueeze(0)

    def normalised(self, rgb: RgbImage) -> Tensor:
        """Return the image `(3, h, w)` at this view's size, not padded."""
        return resize_image(normalise(rgb, device=self.device), self.size, antialias=self.antialias)

    def mask(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        """Return a mask as float32 `(H', W')` of 0 and 1."""
        tensor = torch.tensor(mask, dtype=torch.float32, device=self.device)
        return pad_to_multiple(resize_mask(tensor, self.size), PAD_MULTIPLE)[0]

    def restore(self, probs: Tensor) -> Tensor:
        """Return `(N + 1, H', W')` without padding at the frames' size, bilinear."""
        return resize(unpad(probs, self._pads), self.frame_size, ResizePolicy.TORCH_BILINEAR)
