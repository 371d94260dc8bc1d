"""The streaming segmenter on a reduced network: contract, late objects, corrections, constant memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2_rcms import METHOD
from sam2_rcms.config import PRESETS, SegmenterConfig
from sam2_rcms.predictor import VideoPredictor
from sam2_rcms.segmenter import SAM2Segmenter
from vos_core.config import build_config
from vos_core.contract import AdaptiveSegmenter, BuildRequest
from vos_core.errors import ConfigError, FrameError, MaskError, UsageError
from vos_core.types import Frame, Prompt

HEIGHT, WIDTH = 48, 64
CONFIG = SegmenterConfig(image_size=64, memory_dtype="float32")


def frame(index):
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 255, (HEIGHT, WIDTH + 40, 3), dtype=np.uint8)
    return Frame(index, f"{index:05d}", np.ascontiguousarray(scene[:, index % 40 : index % 40 + WIDTH]))


def prompt(object_id, top=4, left=4):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + 24, left : left + 24] = True
    return Prompt(object_id, mask=mask)


class Reader:
    def __init__(self, length):
        self.names = [f"{index:05d}" for index in range(length)]

    def __len__(self):
        return len(self.names)

    def read(self, index):
        return frame(index)


@pytest.mark.parametrize("side", [32, 96])
def test_any_multiple_of_32_is_a_size(small_network, side):
    segmenter = SAM2Segmenter(small_network, SegmenterConfig(image_size=side), probabilities=True)
    found = [segmenter.step(frame(t), [prompt(1)] if t == 0 else ()) for t in range(3)]
    assert all(one.labels.shape == (HEIGHT, WIDTH) and np.isfinite(one.probs).all() for one in found)
    with pytest.raises(ConfigError, match="multiple of 32"):
        build_config(SegmenterConfig, {"image_size": side + 8})


def test_equals_the_predictor(small_network):
    segmenter = SAM2Segmenter(small_network, CONFIG, probabilities=True)
    assert isinstance(segmenter, AdaptiveSegmenter)
    prompts = {0: [prompt(3), prompt(300, left=30)]}
    segmenter.adapt(Reader(6), prompts)
    results = [segmenter.step(frame(t), prompts.get(t, ())) for t in range(6)]
    predictor = VideoPredictor(small_network, CONFIG)
    state = predictor.init_state([frame(t).rgb for t in range(6)])
    for one in prompts[0]:
        predictor.add_new_mask(state, 0, one.object_id, one.mask)
    for result, (_, ids, logits) in zip(results, predictor.propagate_in_video(state), strict=True):
        expected = np.zeros((HEIGHT, WIDTH), np.uint16)
        for object_id, own in reversed(list(zip(ids, logits[:, 0], strict=True))):
            expected[(own > 0).numpy()] = object_id
        assert result.ids == (3, 300)
        assert result.labels.dtype == np.uint16
        # Here objects are prompted together, there one by one: rounding may move a pixel.
        assert (result.labels != expected).mean() < 0.002
        np.testing.assert_allclose(result.probs.sum(0), 1, atol=1e-5)


def test_length_matters_only_below_16_frames(small_network):
    def run(length, frames):
        segmenter = SAM2Segmenter(small_network, CONFIG, probabilities=True)
        if length is not None:
            segmenter.adapt(Reader(length), {0: [prompt(1)]})
        return np.stack([segmenter.step(frame(t), [prompt(1)] if t == 0 else ()).probs for t in range(frames)])

    assert np.array_equal(run(None, 5), run(40, 5))
    assert not np.array_equal(run(None, 5), run(5, 5))


def test_late_objects_do_not_disturb_others_and_removal_works(small_network):
    config = CONFIG.model_copy(update={"non_overlap_masks": False})
    alone, both = (SAM2Segmenter(small_network, config) for _ in range(2))
    for t in range(6):
        first = alone.step(frame(t), [prompt(7)] if t == 0 else ())
        given = {0: [prompt(7)], 3: [prompt(2, left=30)]}.get(t, ())
        second = both.step(frame(t), given)
        np.testing.assert_array_equal(first.masks[0], second.masks[0])
        assert second.ids == ((7,) if t < 3 else (7, 2))
    both.remove([7])
    assert both.step(frame(6)).ids == (2,)
    with pytest.raises(UsageError, match=r"\[7\] are not followed"):
        both.remove([7])
    both.remove([2])
    assert both.step(frame(7)).labels.max() == 0


def test_clicks_boxes_and_corrections(small_network):
    segmenter = SAM2Segmenter(small_network, CONFIG)
    click = Prompt(1, points=np.array([[20, 20]], np.float32), point_labels=np.array([1]))
    segmenter.step(frame(0), [click, Prompt(2, box=(5.0, 5.0, 30.0, 40.0))])
    memory = segmenter.state.objects[1]
    assert list(memory.cond) == [0]
    segmenter.step(frame(1))
    before = SAM2Segmenter(small_network, CONFIG)
    before.step(frame(0), [click])
    before.step(frame(1))
    untouched = before.step(frame(2))
    away = Prompt(1, points=np.array([[20, 20], [60, 4]], np.float32), point_labels=np.array([0, 0]))
    segmenter.step(frame(2), [away])
    assert list(memory.cond) == [0], "a correction of a tracked frame is a tracked memory, as in SAM 2"
    corrected = memory.tracked[2]
    assert corrected.memory is not None
    assert not torch.equal(corrected.low, before.state.objects[1].tracked[2].low)
    assert untouched.ids == (1,)


def test_corrections_late_in_a_stream_read_what_an_unbounded_state_reads(small_network):
    config = CONFIG.model_copy(update={"low_quality_threshold": -1.0})
    clicks = {t: Prompt(1, points=np.array([[30, 20]], np.float32), point_labels=np.array([t % 2])) for t in (21, 22)}
    segmenter = SAM2Segmenter(small_network, config, probabilities=True)
    found = [segmenter.step(frame(t), [prompt(1)] if t == 0 else [clicks[t]] if t in clicks else ()).probs for t in range(24)]
    predictor = VideoPredictor(small_network, config)
    state = predictor.init_state([frame(t).rgb for t in range(24)])
    predictor.add_new_mask(state, 0, 1, prompt(1).mask)
    expected, start = {}, 0
    for stop in (*clicks, 23):
        expected |= {t: out for t, _, out in predictor.propagate_in_video(state, start, stop - start)}
        if stop in clicks:
            one = clicks[stop]
            _, _, expected[stop] = predictor.add_new_points_or_box(state, stop, 1, one.points, one.point_labels)
        start = stop + 1
    for t, probs in enumerate(found):
        np.testing.assert_allclose(probs[1], torch.sigmoid(expected[t][0, 0]), atol=1e-6, err_msg=str(t))


def test_every_mask_given_ahead_conditions_earlier_frames(small_network):
    prompts = {0: [prompt(1)], 4: [prompt(1, top=20, left=36)]}
    ahead, stream = (SAM2Segmenter(small_network, CONFIG, probabilities=True) for _ in range(2))
    ahead.adapt(Reader(6), prompts)
    stream.adapt(Reader(6), {0: prompts[0]})
    a, b = ([s.step(frame(t), prompts.get(t, ())) for t in range(6)] for s in (ahead, stream))
    assert np.array_equal(a[0].probs, b[0].probs)
    assert not np.array_equal(a[2].probs, b[2].probs)
    assert np.array_equal(a[4].labels == 1, b[4].labels == 1), "the given mask itself comes out"
    predictor = VideoPredictor(small_network, CONFIG)
    state = predictor.init_state([frame(t).rgb for t in range(6)])
    for t, (one,) in prompts.items():
        predictor.add_new_mask(state, t, 1, one.mask)
    for result, (_, _, logits) in zip(a, predictor.propagate_in_video(state), strict=True):
        np.testing.assert_array_equal(result.labels > 0, (logits[0, 0] > 0).numpy())


def test_memory_is_constant(small_network):
    segmenter = SAM2Segmenter(small_network, CONFIG.model_copy(update={"num_prev_frames_to_promote": 2}))
    sizes = []
    for t in range(40):
        segmenter.step(frame(t), [prompt(1), prompt(2, left=30)] if t == 0 else ())
        sizes.append(segmenter.state_bytes())
    assert max(sizes[20:]) <= max(sizes[:20]) * 1.05
    memory = segmenter.state.objects[1]
    assert memory.visited.keys() | memory.masks | memory.clicks.keys() <= {39}
    segmenter.reset()
    assert segmenter.state_bytes() == 0


def test_bad_input(small_network):
    segmenter = SAM2Segmenter(small_network, CONFIG)
    with pytest.raises(UsageError, match="before any prompt"):
        segmenter.step(frame(0))
    with pytest.raises(UsageError, match="has no prompt"):
        segmenter.step(frame(0), [Prompt(1)])
    segmenter.reset()
    with pytest.raises(MaskError, match="64x48"):
        segmenter.step(frame(0), [Prompt(1, mask=np.zeros((3, 4), bool))])
    segmenter.reset()
    with pytest.raises(UsageError, match="twice"):
        segmenter.step(frame(0), [prompt(1), prompt(1)])
    segmenter.reset()
    segmenter.step(frame(0), [prompt(1)])
    with pytest.raises(FrameError, match="time order"):
        segmenter.step(frame(3))
    with pytest.raises(FrameError, match="like the rest"):
        segmenter.step(Frame(1, "00001", np.zeros((10, 10, 3), np.uint8)))


def test_method_and_presets():
    assert METHOD.variants == tuple(PRESETS)
    with pytest.raises(ConfigError, match=r"image_size.*32"):
        METHOD.build(BuildRequest(variant="tiny", options={"image_size": 100}))
    for name in ("num_prev_frames_to_promote", "low_quality_threshold", "score_thresh"):
        with pytest.raises(ConfigError, match=name):
            METHOD.build(BuildRequest(variant="tiny", options={name: float("nan")}))
    with pytest.raises(ConfigError, match="did you mean"):
        METHOD.build(BuildRequest(variant="tiny", options={"low_quality": 0.1}))
    built = METHOD.build(BuildRequest(variant="tiny", options={"image_size": 64, "num_prev_frames_to_promote": 4.0}))
    assert built.config.sigmoid_scale_for_mem_enc == 20.0
    assert PRESETS["b+_rcms"].options["sigmoid_scale_for_mem_enc"] == 7.5
    post = SAM2Segmenter(built.predictor.engine.network, CONFIG.model_copy(update={"apply_postprocessing": True}))
    assert post.predictor.config.fill_hole_area == 8
