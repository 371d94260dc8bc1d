"""`copy`: the last given mask stays where it is. The score that a method must beat to have followed anything at all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

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
        for prompt in prompts:
            mask = checked_mask(prompt, frame)
            if prompt.object_id > np.iinfo(self._labels.dtype).max:
                self._labels = self._labels.astype(np.uint16)
            self._labels[self._labels == prompt.object_id] = 0  # a correction replaces the old mask
            self._labels[mask] = prompt.object_id
            if prompt.object_id not in self._ids:
                self._ids.append(prompt.object_id)
        probs = None
        if self._probabilities:
            probs = (self._labels[None] == np.asarray([0, *self._ids])[:, None, None]).astype(np.float32)
        return FrameResult(labels=self._labels.copy(), ids=tuple(self._ids), probs=probs)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects."""
        gone = list(ids)
        require_known(gone, self._ids)
        for object_id in gone:
            self._ids.remove(object_id)
            assert self._labels is not None
            self._labels[self._labels == object_id] = 0

    def reset(self) -> None:
        """Forget the clip."""
        self._ids, self._labels = [], None

    def state_bytes(self) -> int:
        """Return the bytes of the label map."""
        return 0 if self._labels is None else self._labels.nbytes


def checked_mask(prompt: Prompt, frame: Frame) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return the mask of `prompt`; raises `UsageError` if it has none or another size than `frame`."""
    if prompt.mask is None:
        raise UsageError(f"object {prompt.object_id} is given by clicks or a box", expected="a mask")
    if prompt.mask.shape != frame.rgb.shape[:2]:
        raise UsageError(
            f"the mask of object {prompt.object_id} has shape {prompt.mask.shape}",
            expected=f"{frame.rgb.shape[:2]}, the size of frame {frame.name}",
        )
    return prompt.mask


def require_known(wanted: Sequence[int], known: Sequence[int]) -> None:
    """Raise `UsageError` if an id of `wanted` is not followed."""
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise UsageError(f"objects {unknown} are not followed", expected=f"ids among {sorted(known)}")


def build(request: BuildRequest) -> CopySegmenter:
    """Return the segmenter; it has no options and no weights."""
    build_config(Config, request.options)
    return CopySegmenter(probabilities=request.probabilities)


METHOD = MethodInfo(name="copy", summary="Keep the last given mask: the floor of comparisons (CPU, no weights).", build=build)
