"""Features of a clip, frame after frame: decoded ahead, encoded in small batches, never all at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from rsp_pretrain.model import Encoder
from rsp_pretrain.probe.prepare import prepare, processed_size
from vos_core.errors import FrameError
from vos_core.io.frames import ImageFolder, prefetch
from vos_core.io.images import image_size


class ClipFeatures:
    """Iterates over features `(D, h, w)` of the frames of one clip.

    Args:
        encoder: frozen.
        frames: image files in time order.
        size: one or two numbers, see `processed_size`.
        batch: frames encoded at a time.

    Raises:
        FrameError: no frame, a damaged one, or (while iterating) one of another size than the first.
        UsageError: a size that is no multiple of the patch.
    """

    def __init__(self, encoder: Encoder, frames: Sequence[Path], *, size: Sequence[int], batch: int = 4) -> None:
        if not frames:
            raise FrameError("a clip without frames", expected="at least one image")
        self.encoder, self.batch = encoder, batch
        self._source = ImageFolder(list(frames), backend="opencv")
        first = self._source.read(0).rgb
        self.frame_size = (first.shape[0], first.shape[1])
        self.size = processed_size(*self.frame_size, size, patch=encoder.patch)
        self.grid = (self.size[0] // encoder.patch, self.size[1] // encoder.patch)

    def __len__(self) -> int:
        return len(self._source)

    def __iter__(self) -> Iterator[Tensor]:
        device = next(self.encoder.parameters()).device
        with closing(prefetch(self._source, depth=2 * self.batch)) as frames:
            while block := list(itertools.islice(frames, self.batch)):
                for frame in block:
                    if frame.rgb.shape[:2] != self.frame_size:
                        raise FrameError(
                            f"frame {frame.name} of {self._source.paths[frame.index].parent} is "
                            f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}",
                            expected=f"{self.frame_size[1]}x{self.frame_size[0]} like the first one",
                        )
                images = torch.stack([prepare(frame.rgb, self.size) for frame in block]).to(device)
                with torch.inference_mode(), own_precision(self.encoder):
                    features = self.encoder.dense_features(images)
                yield from features


class HasFrames(Protocol):
    """A clip of image files."""

    @property
    def frames(self) -> Sequence[Path]:
        """In time order."""
        ...


def check_size(clips: Sequence[HasFrames], size: Sequence[int], encoder: Encoder) -> None:
    """Raise `UsageError` for a size that does not even suit the first clip, before anything is written."""
    if clips and clips[0].frames and clips[0].frames[0].is_file():
        processed_size(*image_size(clips[0].frames[0]), size, patch=encoder.patch)


def own_precision(encoder: Encoder) -> torch.autocast:
    """Return the context in which a frozen encoder computes in the precision of its matrices."""
    weight = encoder.patch_embed.proj.weight
    return torch.autocast(weight.device.type, dtype=weight.dtype, enabled=weight.dtype != torch.float32)
