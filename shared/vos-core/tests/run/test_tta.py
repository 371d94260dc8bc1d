from __future__ import annotations

import numpy as np
import pytest

from vos_core.errors import UsageError
from vos_core.run.tta import Augmentation, View, augment
from vos_core.types import Frame, Prompt


def test_views_are_every_scale_and_its_mirror_image() -> None:
    assert Augmentation(flip=True, scales=(1.0, 2.0)).views == (View(1.0), View(2.0), View(1.0, True), View(2.0, True))
    for scales in ((), (0.0,), (1.0, 1.0), (9.0,)):
        with pytest.raises(UsageError):
            Augmentation(scales=scales)


@pytest.mark.parametrize("view", [View(), View(flipped=True), View(2.0), View(0.5, True)])
def test_prompt_and_result_are_undone_by_each_other(view: View) -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:12, 2:10] = True
    shown = view.prompt(Prompt(object_id=1, mask=mask), 30)
    assert shown.mask.shape == view.size(20, 30)
    back = view.undo(shown.mask[None].astype(np.float32), (20, 30))[0] > 0.5
    assert (back == mask).mean() > 0.97


def test_points_and_boxes_move_with_the_pixels() -> None:
    view = View(2.0, True)
    prompt = view.prompt(Prompt(object_id=1, points=np.array([[3, 4]], np.float32), box=(2, 3, 10, 12)), 30)
    assert prompt.points.tolist() == [[53, 8]]
    assert prompt.box == (40, 6, 56, 24)


def test_an_object_too_small_for_a_scale_keeps_one_pixel() -> None:
    mask = np.zeros((40, 40), bool)
    mask[13, 17] = True
    assert View(0.25).prompt(Prompt(object_id=1, mask=mask), 40).mask.sum() == 1


def test_average_over_views_equals_the_plain_result_for_a_still_mask(recorder) -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:12, 2:10] = True
    made = []

    def make():
        made.append(recorder(probabilities=True))
        return made[-1]

    segmenter = augment(make, Augmentation(flip=True, scales=(1.0, 2.0)))
    frame = Frame(0, "00000", np.zeros((20, 30, 3), np.uint8))
    result = segmenter.step(frame, [Prompt(object_id=6, mask=mask)])
    assert (result.labels == 6 * mask).all()
    assert result.ids == (6,)
    assert [next(iter(member.masks.values())).shape for member in made] == [(20, 30), (40, 60), (20, 30), (40, 60)]
    assert segmenter.state_bytes() == 2 * (600 + 2400)
    segmenter.remove([6])
    assert segmenter.state_bytes() == 0
    segmenter.reset()
    assert all(member.resets == 1 for member in made)


def test_members_may_order_their_slots_differently(recorder) -> None:
    class Backwards(recorder):
        def step(self, frame, prompts=()):
            return super().step(frame, list(prompts)[::-1])

    made = [recorder(probabilities=True), Backwards(probabilities=True)]
    segmenter = augment(lambda: made.pop(0), Augmentation(flip=True))
    left, right = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    left[:, :3], right[:, 5:] = True, True
    result = segmenter.step(Frame(0, "0", np.zeros((8, 8, 3), np.uint8)), [Prompt(1, left), Prompt(2, right)])
    assert (result.labels == left * 1 + right * 2).all()


def test_adaptive_members_see_their_own_view(recorder) -> None:
    class Adaptive(recorder):
        def adapt(self, frames, prompts):
            self.sizes = [frames.read(i).rgb.shape[:2] for i in range(len(frames))], prompts[0][0].mask.shape, list(frames.names)

    class Frames:
        names = ("a", "b")

        def __len__(self):
            return 2

        def read(self, index):
            return Frame(index, self.names[index], np.zeros((10, 20, 3), np.uint8))

    made = []

    def make():
        made.append(Adaptive(probabilities=True))
        return made[-1]

    segmenter = augment(make, Augmentation(scales=(1.0, 2.0)), adaptive=True)
    segmenter.adapt(Frames(), {0: [Prompt(1, np.ones((10, 20), bool))]})
    assert [member.sizes for member in made] == [([(s * 10, s * 20)] * 2, (s * 10, s * 20), ["a", "b"]) for s in (1, 2)]
