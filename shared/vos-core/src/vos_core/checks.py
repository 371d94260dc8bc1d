"""What every segmenter asks of its frames, prompts and ids, with the same words for the same mistake."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from vos_core.errors import FrameError, MaskError, UsageError
from vos_core.types import BinaryMask, Frame, Prompt

_LARGEST_ID = 2**16 - 1


def given_masks(frame: Frame, prompts: Sequence[Prompt], *, taker: str) -> dict[int, BinaryMask]:
    """Return object id -> mask `(H, W)` of the prompts of a frame, in their order, for a method that takes masks alone.

    Args:
        frame: the prompts' frame.
        prompts: one per object.
        taker: the method, as the error should name it.

    Raises:
        UsageError: a prompt without a mask, an id outside 1 to 65535 or given twice.
        MaskError: a mask of another size than the frame.
    """
    check_prompts(frame, prompts)
    masks = {}
    for prompt in prompts:
        if prompt.mask is None:
            raise UsageError(
                f"object {prompt.object_id} of frame {frame.name} has no mask", expected=f"a mask: {taker} takes nothing else"
            )
        masks[prompt.object_id] = prompt.mask
    return masks


def check_prompts(frame: Frame, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that no method can take.

    Raises:
        UsageError: an id outside 1 to 65535 or given twice.
        MaskError: a mask of another size than the frame.
    """
    seen: set[int] = set()
    for prompt in prompts:
        if not 0 < prompt.object_id <= _LARGEST_ID:
            raise UsageError(f"object id {prompt.object_id} of frame {frame.name}", expected=f"1 to {_LARGEST_ID}")
        if prompt.object_id in seen:
            raise UsageError(f"object {prompt.object_id} of frame {frame.name} is given twice", fix="Give one prompt per object")
        seen.add(prompt.object_id)
        if prompt.mask is not None and prompt.mask.shape != frame.rgb.shape[:2]:
            raise MaskError(
                f"the mask of object {prompt.object_id} is {'x'.join(map(str, prompt.mask.shape[::-1]))}",
                expected=f"{frame.rgb.shape[1]}x{frame.rgb.shape[0]}, the size of frame {frame.name}",
            )


def check_frame_size(frame: Frame, size: tuple[int, int]) -> None:
    """Raise `FrameError` unless `frame` has the (height, width) of the frames before it."""
    height, width = frame.rgb.shape[:2]
    if (height, width) != size:
        raise FrameError(f"frame {frame.name} is {width}x{height}", expected=f"{size[1]}x{size[0]} like the frames before it")


def followed(ids: Iterable[int], known: Sequence[int]) -> list[int]:
    """Return `ids` without repetitions, all of which are in `known`.

    Raises:
        UsageError: an id that is not followed.
    """
    wanted = list(dict.fromkeys(ids))
    unknown = [object_id for object_id in wanted if object_id not in known]
    if unknown:
        raise UsageError(f"objects {unknown} are not followed", expected=f"ids among {list(known)}")
    return wanted


def label_dtype(ids: Iterable[int]) -> np.dtype[Any]:
    """Return the dtype of a label map that holds these ids."""
    return np.dtype(np.uint8 if max(ids, default=0) < 2**8 else np.uint16)
