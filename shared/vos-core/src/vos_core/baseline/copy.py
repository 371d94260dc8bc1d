"""`copy`: the last given mask stays where it is. The score that a method must beat to have followed anything at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from vos_core.checks import check_frame_size, followed, given_masks
from vos_core.config import Config, build_config
from vos_core.contract import BuildRequest, MethodInfo
from vos_core.errors import UsageError
from vos_core.types import Frame, FrameResult, LabelMap, Prompt


class CopySegmenter:
    """Returns the masks it was given; a later prompt paints over earlier ones. CPU, no arithmetic, so precision has no meaning.

    Args:
        probabilities: whether results hold one-hot probabilities.
    """

    def __init__(self, *, probabilities: bool = False) -> None:
        self._probabilities = probabilities
        self._ids: list[int] = []
        self._labels: LabelMap | None = None

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the current masks for `frame`."""
        size = frame.rgb.shape[:2]
        if self._labels is None:
            if not prompts:
                raise UsageError(f"frame {frame.name} is the first and brings no mask", fix="Give a mask with the first step")
            self._labels = np.zeros(size, np.uint8)
        check_frame_size(frame, (self._labels.shape[0], self._labels.shape[1]))
        for object_id, mask in given_masks(frame, prompts, taker="copy").items():
            if object_id > np.iinfo(self._labels.dtype).max:
                self._labels = self._labels.astype(np.uint16)
            self._labels[self._labels == object_id] = 0  # a correction replaces the old mask
            self._labels[mask] = object_id
            if object_id not in self._ids:
                self._ids.append(object_id)
        probs = None
        if self._probabilities:
            probs = (self._labels[None] == np.asarray([0, *self._ids])[:, None, None]).astype(np.float32)
        return FrameResult(labels=self._labels.copy(), ids=tuple(self._ids), probs=probs)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects."""
        for object_id in followed(ids, self._ids):
            self._ids.remove(object_id)
            assert self._labels is not None
            self._labels[self._labels == object_id] = 0

    def reset(self) -> None:
        """Forget the clip."""
        self._ids, self._labels = [], None

    def state_bytes(self) -> int:
        """Return the bytes of the label map."""
        return 0 if self._labels is None else self._labels.nbytes


def build(request: BuildRequest) -> CopySegmenter:
    """Return the segmenter; it has no options and no weights."""
    build_config(Config, request.options)
    return CopySegmenter(probabilities=request.probabilities)


METHOD = MethodInfo(name="copy", summary="Keep the last given mask: the floor of comparisons (CPU, no weights).", build=build)
