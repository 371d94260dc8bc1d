"""Frames of a video as the network wants them, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vos_core.errors import FrameError
from vos_core.io.frames import FrameSource, open_frames
from vos_core.ops.resize import resize
from vos_core.types import Frame, RgbImage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, in RGB, 0-1."""


class ArrayFrames(FrameSource):
    """Frames that are in memory already.

    Args:
        frames: uint8 `(H, W, 3)` each, RGB.
    """

    parallel = True

    def __init__(self, frames: Sequence[RgbImage] | npt.NDArray[np.uint8]) -> None:
        self._frames = frames
        if not len(frames):
            raise FrameError("a video without frames", expected="at least one frame")

    @property
    def names(self) -> Sequence[str]:
        """Numbers of five digits."""
        return [f"{index:05d}" for index in range(len(self._frames))]

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the first frame in pixels."""
        height, width = self.read(0).rgb.shape[:2]
        return height, width

    def read(self, index: int) -> Frame:
        """Return frame `index`; raises `FrameError` if it is no picture."""
        rgb = self._frames[index]
        if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.shape[2:] != (3,):
            found = f"{rgb.dtype} {rgb.shape}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
            raise FrameError(f"frame {index} is {found}", expected="an array uint8 (H, W, 3), RGB from 0 to 255")
        return Frame(index, f"{index:05d}", rgb)


def open_video(video: Path | str | FrameSource | Sequence[RgbImage] | npt.NDArray[np.uint8]) -> FrameSource:
    """Return the frames of a folder, a video file, arrays or what is a source of frames already.

    Raises:
        FrameError: nothing is there, or it cannot be read.
    """
    if isinstance(video, FrameSource):
        return video
    if isinstance(video, (str, Path)):
        return open_frames(Path(video))
    return ArrayFrames(video)


def network_image(rgb: RgbImage, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Return the network's input `(1, 3, side, side)`: squashed with Pillow's bicubic filter, normalised.

    Args:
        rgb: uint8 `(H, W, 3)`.
        side: pixels, a multiple of 32.
        device: where to.
    """
    squashed = torch.from_numpy(np.array(resize(rgb, (side, side), "pillow-bicubic"))).to(device)
    image = squashed.unsqueeze(0).permute(0, 3, 1, 2).float().div_(255)  # channels last, as torch sees it only in this order
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return image.sub_(mean).div_(std)
