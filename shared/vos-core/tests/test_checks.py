from __future__ import annotations

import numpy as np
import pytest

from vos_core.checks import check_frame_size, followed, given_masks, label_dtype
from vos_core.errors import FrameError, MaskError, UsageError
from vos_core.types import Frame, Prompt

FRAME = Frame(0, "00007", np.zeros((4, 6, 3), np.uint8))
MASK = np.ones((4, 6), np.bool_)


def test_masks_come_back_by_id_in_their_order():
    found = given_masks(FRAME, [Prompt(7, mask=MASK), Prompt(300, mask=~MASK)], taker="it")
    assert list(found) == [7, 300]
    assert found[7] is MASK


@pytest.mark.parametrize(
    ("prompts", "error", "words"),
    [
        ([Prompt(1, box=np.array([0.0, 0, 2, 2]))], UsageError, "object 1 of frame 00007 has no mask.*STCN takes nothing else"),
        ([Prompt(0, mask=MASK)], UsageError, "object id 0 of frame 00007.*1 to 65535"),
        ([Prompt(2**16, mask=MASK)], UsageError, "65536"),
        ([Prompt(3, mask=MASK), Prompt(3, mask=MASK)], UsageError, "object 3 of frame 00007 is given twice"),
        ([Prompt(3, mask=MASK[:2])], MaskError, "mask of object 3 is 6x2.*6x4, the size of frame 00007"),
    ],
)
def test_prompts_that_cannot_be_taken_are_named(prompts, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        given_masks(FRAME, prompts, taker="STCN")


def test_frames_keep_their_size_and_ids_are_known():
    check_frame_size(FRAME, (4, 6))
    with pytest.raises(FrameError, match=r"(?s)frame 00007 is 6x4.*4x6 like"):
        check_frame_size(FRAME, (6, 4))
    assert followed([2, 1, 2], (1, 2, 3)) == [2, 1]
    with pytest.raises(UsageError, match=r"(?s)objects \[9\] are not followed.*\[1, 2\]"):
        followed([1, 9], (1, 2))


def test_label_maps_are_as_narrow_as_their_ids_allow():
    assert label_dtype([]) == np.uint8
    assert label_dtype([1, 255]) == np.uint8
    assert label_dtype([256]) == np.uint16
