"""Label maps of a whole clip between adaptation steps: kept compressed in memory, a few kilobytes a frame."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from vos_core.types import LabelMap


class PseudoMasks:
    """Label maps by frame index."""

    def __init__(self) -> None:
        self._packed: dict[int, tuple[bytes, tuple[int, ...], npt.DTypeLike]] = {}

    def __setitem__(self, index: int, labels: LabelMap) -> None:
        self._packed[index] = (zlib.compress(labels.tobytes(), 1), labels.shape, labels.dtype)

    def __getitem__(self, index: int) -> LabelMap:
        data, shape, dtype = self._packed[index]
        return np.frombuffer(zlib.decompress(data), dtype).reshape(shape)

    def __contains__(self, index: int) -> bool:
        return index in self._packed

    def __len__(self) -> int:
        return len(self._packed)
