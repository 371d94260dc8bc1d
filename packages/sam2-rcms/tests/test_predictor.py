"""The predictor's calls on a reduced network: what they refuse, what they keep, and that batching changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2_rcms.assembly import build_predictor
from sam2_rcms.config import PredictorConfig
from sam2_rcms.engine import Engine
from sam2_rcms.memory import Record
from sam2_rcms.predictor import VideoPredictor
from vos_core.errors import FrameError, MaskError, UsageError, WeightsError

HEIGHT, WIDTH = 48, 80


@pytest.fixture
def video():
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4 + 30, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    return [np.ascontiguousarray(scene[:, 3 * t : 3 * t + WIDTH]) for t in range(10)]


def predictor_of(network, **options):
    options = {"image_size": 64, "memory_dtype": "float32", **options}
    batch = options.pop("batch_objects", True)
    return VideoPredictor(network, PredictorConfig(**options), batch_objects=batch)


def box_mask(top, left, height=20, width=24):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def run(predictor, video, *, keep="all", ids=(1, 5, 9)):
    state = predictor.init_state(video, keep=keep)
    for place, obj_id in enumerate(ids):
        predictor.add_new_mask(state, 0, obj_id, box_mask(4 * place, 14 * place))
    return state, torch.stack([logits for _, _, logits in predictor.propagate_in_video(state)])


def test_batched_objects_equal_single_ones(small_network, video):
    _, together = run(predictor_of(small_network), video)
    _, apart = run(predictor_of(small_network, batch_objects=False), video)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-3)
    alone = [run(predictor_of(small_network), video, ids=(obj_id,))[1] for obj_id in (1,)]
    torch.testing.assert_close(together[:, :1], alone[0], rtol=1e-4, atol=1e-3)


def test_window_equals_all_and_stays_small(small_network, video):
    video = video * 3
    everything, full = run(predictor_of(small_network), video, ids=(1, 5))
    predictor = predictor_of(small_network)
    bounded, windowed = run(predictor, video, keep="window", ids=(1, 5))
    torch.testing.assert_close(full, windowed, rtol=0, atol=0)
    assert [len(memory.tracked) for memory in everything.objects.values()] == [29] * 2
    assert max(len(memory.tracked) for memory in bounded.objects.values()) <= 16
    assert bounded.nbytes() < 0.5 * everything.nbytes()
    with pytest.raises(UsageError, match="has passed"):
        predictor.add_new_mask(bounded, 3, 1, box_mask(0, 0))
    with pytest.raises(UsageError, match="backwards"):
        next(predictor.propagate_in_video(bounded, reverse=True))


def test_offloaded_records_are_all_moved_and_read_alike(small_network, video, monkeypatch):
    moved = set()
    offload = Record.offload
    monkeypatch.setattr(Record, "offload", lambda record: moved.add(id(record)) or offload(record))
    predictor = predictor_of(small_network, cache_memory_keys=True)
    _, plain = run(predictor, video)
    assert not moved
    state = predictor.init_state(video, offload_state_to_cpu=True)
    for place, obj_id in enumerate((1, 5, 9)):
        predictor.add_new_mask(state, 0, obj_id, box_mask(4 * place, 14 * place))
    torch.testing.assert_close(torch.stack([logits for _, _, logits in predictor.propagate_in_video(state)]), plain)
    predictor.add_new_points_or_box(state, 4, 5, [[40, 20]], [1])
    predictor.propagate_in_video_preflight(state)
    kept = [record for memory in state.objects.values() for store in (memory.cond, memory.tracked) for record in store.values()]
    assert len(kept) == 3 * len(video)
    assert {id(record) for record in kept} <= moved


def test_window_keeps_what_rcms_promotes(small_network, video):
    """Scores are forced: good for 20 frames, then gone; both kinds of state promote the same frames."""
    kept = []
    for keep in ("all", "window"):
        predictor = predictor_of(small_network, low_quality_threshold=-1.0, num_prev_frames_to_promote=3)
        track = Engine.track

        def scored(self, image, memories, frame, rules, *, reverse=False, track=track):
            records = track(self, image, memories, frame, rules, reverse=reverse)
            for record in records:
                record.score, record.quality = (-5.0 if frame >= 20 else 5.0), 0.9 if frame in (4, 9, 13) else -2.0
            return records

        predictor.engine.track = scored.__get__(predictor.engine)
        state = predictor.init_state(video * 3, keep=keep)
        predictor.add_new_mask(state, 0, 1, box_mask(4, 10))
        for _ in predictor.propagate_in_video(state):
            pass
        kept.append(list(state.objects[1].cond))
    assert kept == [[0, 13, 9, 4]] * 2


def test_late_and_removed_objects(small_network, video):
    predictor = predictor_of(small_network)
    state, _ = run(predictor, video, ids=(3, 7))
    predictor.add_new_mask(state, 6, 12, box_mask(10, 30))
    frames = list(predictor.propagate_in_video(state, 5, 2))
    assert [(frame, ids) for frame, ids, _ in frames] == [(5, [3, 7, 12]), (6, [3, 7, 12]), (7, [3, 7, 12])]
    ids, changed = predictor.remove_object(state, 7)
    assert ids == [3, 12]
    assert [(frame, tuple(logits.shape)) for frame, logits in changed] == [(0, (2, 1, HEIGHT, WIDTH))]
    assert predictor.remove_object(state, 99) == ([3, 12], [])
    with pytest.raises(UsageError, match="99"):
        predictor.remove_object(state, 99, strict=True)
    predictor.remove_object(state, 3)
    assert predictor.remove_object(state, 12) == ([], [])
    with pytest.raises(UsageError, match="no object"):
        next(predictor.propagate_in_video(state))


def test_correction_kept_only_as_a_conditioning_frame(small_network, video):
    for option, kept in ((False, False), (True, True)):
        predictor = predictor_of(small_network, add_all_frames_to_correct_as_cond=option)
        state, _ = run(predictor, video, ids=(1,))
        predictor.add_new_points_or_box(state, 4, 1, [[40, 20]], [1])
        list(predictor.propagate_in_video(state))
        assert (4 in state.objects[1].cond) is kept


def test_clearing_the_memory_around_a_prompt(small_network, video):
    predictor = predictor_of(small_network, clear_non_cond_mem_around_input=True, num_maskmem=3)
    state, _ = run(predictor, video, ids=(1,))
    predictor.add_new_mask(state, 5, 1, box_mask(0, 0))
    predictor.propagate_in_video_preflight(state)
    assert sorted(state.objects[1].tracked) == [1, 5, 9]


def test_reverse_tracking_and_one_frame_video(small_network, video):
    predictor = predictor_of(small_network)
    state = predictor.init_state(video)
    predictor.add_new_mask(state, 4, 1, box_mask(4, 10))
    assert [frame for frame, _, _ in predictor.propagate_in_video(state, reverse=True)] == [4, 3, 2, 1, 0]
    assert list(predictor.propagate_in_video(state, 0, reverse=True)) == []
    single = predictor.init_state(video[:1])
    predictor.add_new_mask(single, 0, 1, box_mask(4, 10))
    list(predictor.propagate_in_video(single))
    _, _, logits = predictor.add_new_points_or_box(single, 0, 1, [[20, 10]], [1])
    assert logits.isfinite().all()


def test_strict_reference_off_waits_for_the_prompt_and_looks_ahead(small_network, video):
    for strict in (True, False):
        predictor = predictor_of(small_network, rcms_strict_reference=strict)
        state = predictor.init_state(video)
        predictor.add_new_mask(state, 0, 1, box_mask(4, 10))
        predictor.add_new_mask(state, 5, 2, np.zeros((HEIGHT, WIDTH), bool))
        # Object 2 is absent wherever it is looked for.
        memory = state.object(2)
        record = memory.new_cond[5]
        for frame in range(3):
            predictor._settle(memory)
            memory.tracked[frame] = record
            record.score = -3.0
            predictor._observe(memory, frame, record, reverse=False)
        assert (memory.rcms.disappeared_at is not None) is strict


def test_overlapping_masks_are_separated(small_network, video):
    predictor = predictor_of(small_network, non_overlap_masks=True)
    state = predictor.init_state(video)
    predictor.add_new_mask(state, 0, 1, box_mask(0, 0, 30, 30))
    _, ids, logits = predictor.add_new_mask(state, 0, 2, box_mask(10, 10, 30, 30))
    assert ids == [1, 2]
    assert not ((logits > 0).all(0)).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": [[1, 2]]}, "not given together"),
        ({}, "neither a click nor a box"),
        ({"points": np.zeros((0, 2)), "labels": []}, "neither a click nor a box"),
        ({"points": [[5, 6], [200, 6]], "labels": [1, 1]}, r"click \(200, 6\) is outside the frame.*0 to 80 and y from 0 to 48"),
        ({"points": [[40, 6]], "labels": [1], "normalize_coords": False}, r"\(40, 6\).*0 to 1.*normalize_coords=False"),
        ({"box": [90, 2, 99, 8]}, "box .* is outside the frame"),
        ({"points": [[1, 2]], "labels": [1, 0]}, r"\(2,\)"),
        ({"points": [[1, 2]], "labels": [5]}, "labels"),
        ({"points": [[1, float("nan")]], "labels": [1]}, "finite"),
        ({"box": [1, 2, 3]}, "x0, y0, x1, y1"),
        ({"box": [9, 2, 3, 8]}, "x0 <= x1"),
        ({"box": [1, 2, 9, 8], "clear_old_points": False}, "before them"),
    ],
)
def test_clicks_that_make_no_sense(small_network, video, arguments, message):
    predictor = predictor_of(small_network)
    state = predictor.init_state(video)
    with pytest.raises(UsageError, match=message):
        predictor.add_new_points_or_box(state, 0, 1, **arguments)
    assert state.obj_ids == [], "a refused prompt begins no object"


def test_a_session_in_the_words_of_sam_2(small_network, video):
    predictor = predictor_of(small_network)
    state = predictor.init_state(video_path=np.stack(video))
    here = {"inference_state": state, "frame_idx": np.int64(2)}
    points = np.array([[40, 20]], np.float32)
    frame, ids, logits = predictor.add_new_points_or_box(**here, obj_id=4, points=points, labels=np.array([1], np.int32))
    assert (type(frame), frame, ids, tuple(logits.shape)) == (int, 2, [4], (1, 1, HEIGHT, WIDTH))
    boxed = predictor.add_new_points_or_box(**here, obj_id=5, box=np.array([-4, 10, 90, 40]))[2]
    assert boxed.shape[0] == 2, "a box may reach beyond the frame"
    predictor.add_new_mask(**here, obj_id=6, mask=torch.from_numpy(box_mask(0, 0)).byte() * 255)
    assert repr(state).startswith(f"<VideoState: 10 frames of {WIDTH}x{HEIGHT}, objects [4, 5, 6], keep=all, ")
    tracked = {
        f: i for f, i, _ in predictor.propagate_in_video(inference_state=state, start_frame_idx=2, max_frame_num_to_track=1)
    }
    assert tracked == {2: [4, 5, 6], 3: [4, 5, 6]}
    assert predictor.clear_all_prompts_in_frame(**here, obj_id=4)[0] == 2
    assert predictor.remove_object(inference_state=state, obj_id=5)[0] == [4, 6]
    predictor.reset_state(inference_state=state)
    assert state.obj_ids == []


def test_weights_by_name_and_devices_that_are_not_there():
    with pytest.raises(WeightsError, match=r"'absent\.pt'.*sam2\.1_hiera_tiny"):
        build_predictor("tiny", weights="absent.pt")
    with pytest.raises(UsageError, match="unknown device 'gpu'"):
        build_predictor("tiny", device="gpu")


def test_other_bad_input(small_network, video, tmp_path):
    predictor = predictor_of(small_network)
    state = predictor.init_state(video)
    with pytest.raises(UsageError, match="0 to 9"):
        predictor.add_new_mask(state, 10, 1, box_mask(0, 0))
    with pytest.raises(MaskError, match=r"\(H, W\)"):
        predictor.add_new_mask(state, 0, 1, np.zeros((1, HEIGHT, WIDTH), bool))
    with pytest.raises(UsageError, match=r"frame 0\.5.*0 to 9"):
        predictor.add_new_mask(state, 0.5, 1, box_mask(0, 0))
    for several in (box_mask(0, 0) + 2 * box_mask(20, 40).astype(np.uint8), torch.rand(HEIGHT, WIDTH)):
        with pytest.raises(MaskError, match=r"several values.*labels == id"):
            predictor.add_new_mask(state, 0, 1, several)
    with pytest.raises(UsageError, match="object 4 is not there"):
        predictor.clear_all_prompts_in_frame(state, 0, 4)
    with pytest.raises(UsageError, match="object 4 is not there"):
        predictor.track_frame(state, 0, obj_ids=[4])
    for call in (predictor.masks_on, predictor.track_frame, lambda *to: predictor.clear_all_prompts_in_frame(*to, 1)):
        with pytest.raises(UsageError, match="frame 10"):
            call(state, 10)
    with pytest.raises(UsageError, match="another predictor"):
        predictor_of(small_network).add_new_mask(state, 0, 1, box_mask(0, 0))
    for frames, found in ((np.stack(video) / 255, "float64"), (np.stack(video)[..., 0], r"uint8 \(48, 80\)"), (["a"], "str")):
        with pytest.raises(FrameError, match=found):
            predictor.init_state(frames)
    with pytest.raises(FrameError, match="80x40"):
        predictor.init_state([*video[:1], video[1][:40]]).image(1)
    with pytest.raises(FrameError, match=r"nothing\.mp4 does not exist.*a video file, an image or a folder"):
        predictor.init_state(str(tmp_path / "nothing.mp4"))
    with pytest.raises(UsageError, match="all or window"):
        predictor.init_state(video, keep="some")
    with pytest.raises(UsageError, match="offload_video_to_cpu=False"):
        predictor.init_state(video, offload_video_to_cpu=False)
    with pytest.raises(UsageError, match="no preset 'huge'"):
        build_predictor("huge")
    predictor.add_new_mask(state, 0, 1, box_mask(0, 0))
    list(predictor.propagate_in_video(state))
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    with pytest.raises(UsageError, match="no prompt left"):
        next(predictor.propagate_in_video(state))
    with pytest.raises(UsageError, match="fp16"):
        VideoPredictor(small_network, precision="fp16")


def test_holes_are_filled_as_opencv_counts_them(small_network, video):
    import cv2

    found = {}
    for area in (0, 6):
        predictor = predictor_of(small_network, fill_hole_area=area)
        state = predictor.init_state(video)
        mask = box_mask(4, 10, 40, 60)
        mask[20:23, 30:35] = False  # about one low-resolution pixel
        predictor.add_new_mask(state, 0, 1, mask)
        found[area] = state.objects[1].new_cond[0].low
    plain = found[0]
    count, labels, stats, _ = cv2.connectedComponentsWithStats((plain[0].numpy() <= 0).astype(np.uint8), connectivity=8)
    small = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] <= 6]
    assert small, "there must be a hole to fill"
    expected = torch.where(torch.from_numpy(np.isin(labels, small)), 0.1, plain)
    assert torch.equal(found[6], expected)


def test_bf16_stays_near_fp32(small_network, video):
    config = PredictorConfig(image_size=64)
    logits = {}
    for precision in ("fp32", "bf16"):
        _, logits[precision] = run(VideoPredictor(small_network, config, precision=precision), video[:4])
    assert (logits["fp32"] - logits["bf16"]).abs().mean() < 0.05 * logits["fp32"].abs().mean() + 0.05
    assert next(small_network.parameters()).dtype == torch.float32, "the given network stays as it is"


def test_cached_keys_change_nothing_but_rounding(small_network, video):
    plain_state, plain = run(predictor_of(small_network), video)
    state, cached = run(predictor_of(small_network, cache_memory_keys=True), video)
    torch.testing.assert_close(plain, cached, rtol=1e-4, atol=1e-3)
    assert state.nbytes() > plain_state.nbytes()
    half = VideoPredictor(small_network, PredictorConfig(image_size=64, cache_memory_keys=True), precision="bf16")
    assert (run(half, video)[1] - plain).abs().mean() < 0.05 * plain.abs().mean() + 0.05


def test_frames_are_read_one_by_one_and_encoded_once(small_network, video, monkeypatch):
    predictor = predictor_of(small_network)
    encoded = []
    encode = predictor.engine.encode
    monkeypatch.setattr(predictor.engine, "encode", lambda rgb: encoded.append(1) or encode(rgb))
    run(predictor, video)
    assert len(encoded) == len(video), "three objects share each frame's features"
