from __future__ import annotations

import cv2
import numpy as np
import pytest

from vos_core.baseline import copy, flow
from vos_core.contract import AdaptiveSegmenter, BuildRequest, MethodInfo, Segmenter, discover
from vos_core.errors import ConfigError, FrameError, MaskError, UsageError
from vos_core.types import Frame, Prompt

METHODS = [copy.METHOD, flow.METHOD]
SIZE = (96, 128)


def texture(seed: int) -> np.ndarray:
    """Smooth noise, as flow needs it: without edges that alias."""
    noise = np.random.default_rng(seed).normal(size=(*SIZE, 3))
    smooth = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return np.clip(128 + 500 * smooth, 0, 255).astype(np.uint8)


def frame(index: int, *, shift: int = 0) -> Frame:
    """A textured ground with a textured square that moved `shift` pixels to the right."""
    picture = texture(3) // 2
    picture[30:62, 20 + shift : 52 + shift] = 100 + texture(8)[:32, :32] // 2
    return Frame(index, f"{index:05d}", picture)


def square(x: int, y: int = 30, *, size: int = 32) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + size, x : x + size] = True
    return mask


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> MethodInfo:
    return request.param


def test_both_are_installed_as_methods_like_any_other(method: MethodInfo) -> None:
    assert discover()[method.name] is method
    segmenter = method.build(BuildRequest())
    assert isinstance(segmenter, Segmenter)
    assert not isinstance(segmenter, AdaptiveSegmenter)
    assert not method.needs_weights


def test_given_masks_come_back_as_they_are(method: MethodInfo) -> None:
    segmenter = method.build(BuildRequest(probabilities=True))
    result = segmenter.step(frame(0), [Prompt(9, square(20)), Prompt(300, square(80))])
    assert result.ids == (9, 300)
    assert result.labels.dtype == np.uint16
    assert (result.labels == 9 * square(20) + 300 * square(80)).all()
    assert result.probs.shape == (3, *SIZE)
    assert result.probs.dtype == np.float32
    np.testing.assert_allclose(result.probs.sum(0), 1, atol=1e-5)
    assert method.build(BuildRequest()).step(frame(0), [Prompt(1, square(20))]).probs is None


def test_late_objects_corrections_and_removal(method: MethodInfo) -> None:
    segmenter = method.build(BuildRequest())
    segmenter.step(frame(0), [Prompt(2, square(20))])
    result = segmenter.step(frame(1), [Prompt(5, square(36))])
    assert result.ids == (2, 5)
    assert (result.labels[square(36)] == 5).all(), "a new mask lies over older ones"
    result = segmenter.step(frame(2), [Prompt(2, square(90, 5, size=20))])
    assert overlap(result.labels == 2, square(90, 5, size=20)) == 1, "a correction replaces the mask"
    segmenter.remove([5])
    result = segmenter.step(frame(3))
    assert result.ids == (2,)
    assert set(np.unique(result.labels)) == {0, 2}
    with pytest.raises(UsageError, match=r"\[5\] are not followed"):
        segmenter.remove([2, 5])
    assert segmenter.step(frame(4)).ids == (2,)


def test_state_is_constant_and_reset_forgets(method: MethodInfo) -> None:
    segmenter = method.build(BuildRequest())
    assert segmenter.state_bytes() == 0
    sizes, first = set(), None
    for index in range(40):
        result = segmenter.step(frame(index), [Prompt(1, square(20))] if index == 0 else ())
        first = result.labels if index == 1 else first
        sizes.add(segmenter.state_bytes())
    assert len(sizes) == 1
    segmenter.reset()
    assert segmenter.state_bytes() == 0
    with pytest.raises(UsageError, match="brings no mask"):
        segmenter.step(frame(0))
    segmenter.step(frame(0), [Prompt(1, square(20))])
    assert (segmenter.step(frame(1)).labels == first).all(), "a clip's result does not depend on the clip before"


def test_wrong_prompts_are_refused(method: MethodInfo) -> None:
    segmenter = method.build(BuildRequest())
    with pytest.raises(UsageError, match="a mask"):
        segmenter.step(frame(0), [Prompt(1, box=(0, 0, 5, 5))])
    with pytest.raises(MaskError, match="mask of object 1 is 4x4"):
        segmenter.step(frame(0), [Prompt(1, np.ones((4, 4), bool))])
    with pytest.raises(ConfigError, match="unknown option"):
        method.build(BuildRequest(options={"speed": 1}))


def test_copy_returns_maps_of_its_own() -> None:
    segmenter = copy.METHOD.build(BuildRequest())
    first = segmenter.step(frame(0), [Prompt(1, square(20))]).labels
    first[:] = 7
    assert (segmenter.step(frame(1)).labels == square(20)).all()


def test_flow_follows_a_moving_square_and_copy_does_not() -> None:
    moving = flow.METHOD.build(BuildRequest())
    still = copy.METHOD.build(BuildRequest())
    for segmenter in (moving, still):
        segmenter.step(frame(0), [Prompt(4, square(20))])
    for index in range(1, 13):
        followed, kept = (segmenter.step(frame(index, shift=2 * index)).labels == 4 for segmenter in (moving, still))
    assert overlap(followed, square(44)) > 0.85
    assert overlap(kept, square(44)) < 0.2


def test_flow_options_change_the_result_or_are_refused() -> None:
    def masks(**options: object) -> np.ndarray:
        segmenter = flow.METHOD.build(BuildRequest(options=options))
        segmenter.step(frame(0), [Prompt(4, square(20))])
        for index in range(1, 8):
            labels = segmenter.step(frame(index, shift=5 * index)).labels
        return labels

    default = masks()
    for options in ({"preset": "ultrafast"}, {"finest_scale": 3}, {"consistency": 0.0}):
        assert (masks(**options) != default).any(), options
    for options in ({"preset": "best"}, {"finest_scale": 9}, {"consistency": 2}):
        with pytest.raises(ConfigError):
            masks(**options)
    assert set(flow.METHOD.options) == {"preset", "finest_scale", "consistency"}


def test_a_frame_of_another_size_is_refused(method: MethodInfo) -> None:
    segmenter = method.build(BuildRequest())
    segmenter.step(frame(0), [Prompt(4, square(20))])
    with pytest.raises(FrameError, match="frame 00001 is 50x50"):
        segmenter.step(Frame(1, "00001", np.zeros((50, 50, 3), np.uint8)))
