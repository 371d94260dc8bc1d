from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from vos_core.errors import ClipWarning, FrameError, MaskError, VosError
from vos_core.run.prompts import all_prompts, count_objects
from vos_core.run.session import run_clip
from vos_core.run.tta import Augmentation, augment
from vos_core.types import Clip, FrameResult


class Notes:
    def __init__(self):
        self.frames, self.closed, self.aborted = [], 0, 0

    def write(self, frame, result):
        self.frames.append((frame.name, result.labels.copy()))

    def close(self):
        self.closed += 1

    def abort(self):
        self.aborted += 1


def test_every_frame_goes_through_once_in_order(make_clip, recorder):
    clip, segmenter, notes, seen = make_clip(frames=9), recorder(), Notes(), []
    record = run_clip(segmenter, clip, [notes], prefetch_depth=2, callback=lambda frame, result: seen.append(frame.index))
    assert [name for name, _ in notes.frames] == [path.stem for path in clip.frames]
    assert seen == list(range(9))
    assert segmenter.calls[0] == ("00000", (1,))
    assert all(given == () for _, given in segmenter.calls[1:])
    assert (record.status, record.frames, record.objects, record.height, record.width) == ("done", 9, 1, 48, 64)
    assert len(record.step_seconds) == 9
    assert record.state_bytes == 48 * 64
    assert record.peak_memory_bytes > 1 << 20
    assert (notes.closed, notes.aborted, segmenter.resets) == (1, 0, 1)


def test_first_seen_brings_ids_when_they_show_up(make_clip, recorder):
    clip = make_clip(births={7: 1, 300: 3, 2: 3}, annotated=(0, 1, 2, 3, 4), prompt_rule="first_seen")
    segmenter, notes = recorder(), Notes()
    record = run_clip(segmenter, clip, [notes])
    assert [given for _, given in segmenter.calls] == [(7,), (), (2, 300), (), ()]
    assert segmenter.calls[0][0] == "00001", "the frame before the first object is not processed"
    assert record.objects == 3
    assert set(np.unique(notes.frames[-1][1])) == {0, 2, 7, 300}


def test_first_frame_gives_the_first_mask_only(make_clip, recorder):
    segmenter = recorder()
    run_clip(segmenter, make_clip(births={1: 0, 2: 3}, prompt_rule="first_frame"))
    assert [given for _, given in segmenter.calls] == [(1,), (), (), (), (), ()]


def test_void_is_no_object_unless_the_clip_says_so(make_clip, recorder):
    for name, void, expected in (("a", 255, (1,)), ("b", None, (1, 255))):
        segmenter = recorder()
        run_clip(segmenter, make_clip(name, births={1: 0, 255: 0}, void=void))
        assert segmenter.calls[0][1] == expected


def test_unlisted_and_missing_ids_are_named(make_clip, recorder):
    segmenter = recorder()
    record = run_clip(segmenter, make_clip(births={1: 0, 9: 0}, object_ids=(1, 5)))
    assert segmenter.calls[0][1] == (1,)
    assert any("[9]" in text and "does not list" in text for text in record.warnings)
    assert any("[5]" in text and "no mask" in text for text in record.warnings)


def test_what_a_method_warns_about_a_clip_is_in_its_record_once_and_other_warnings_are_shown(make_clip, recorder):
    segmenter = recorder()
    step = segmenter.step

    def warning_step(frame, prompts=()):
        warnings.warn("object 1 is lost", ClipWarning, stacklevel=2)
        warnings.warn("old function", DeprecationWarning, stacklevel=2)
        return step(frame, prompts)

    segmenter.step = warning_step
    with pytest.warns() as shown:
        record = run_clip(segmenter, make_clip())
    assert record.warnings == ("object 1 is lost",)
    assert {item.category for item in shown} == {DeprecationWarning}


def test_clip_without_usable_mask_says_what_to_give(make_clip, recorder):
    empty = make_clip("empty", births={1: 5}, annotated=(0,))
    with pytest.raises(MaskError, match=r"00000\.png shows no object.*at least one pixel"):
        run_clip(recorder(), empty)
    none = make_clip("none", annotated=())
    with pytest.raises(MaskError, match="no mask for any of its 6 frames"):
        run_clip(recorder(), none)
    with pytest.raises(VosError, match="clip 'x'"):
        run_clip(recorder(), Clip(name="x"))


def test_frame_of_another_size_is_named(make_clip, recorder):
    clip = make_clip()
    cv2.imwrite(str(clip.frames[3]), np.zeros((50, 64, 3), np.uint8))
    notes = Notes()
    with pytest.raises(FrameError, match=r"00003.*64x50.*64x48"):
        run_clip(recorder(), clip, [notes])
    assert (notes.closed, notes.aborted) == (0, 1)


def test_mask_one_pixel_off_is_fitted_and_more_is_refused(make_clip, recorder):
    clip = make_clip("near")
    cv2.imwrite(str(clip.annotations["00000"]), np.ones((48, 63), np.uint8))
    record = run_clip(recorder(), clip)
    assert any("63x48" in text and "64x48" in text for text in record.warnings)
    clip = make_clip("far")
    cv2.imwrite(str(clip.annotations["00000"]), np.ones((24, 32), np.uint8))
    with pytest.raises(MaskError, match=r"00000\.png is 32x24.*64x48"):
        run_clip(recorder(), clip)


def test_error_of_the_method_aborts_sinks_and_resets(make_clip, recorder):
    segmenter, notes = recorder(fail_at="00002"), Notes()
    with pytest.raises(RuntimeError):
        run_clip(segmenter, make_clip(), [notes])
    assert (notes.closed, notes.aborted, segmenter.resets) == (0, 1, 1)


def test_result_of_wrong_size_is_the_methods_fault(make_clip, recorder):
    class Wrong(recorder):
        def step(self, frame, prompts=()):
            return FrameResult(labels=np.zeros((3, 3), np.uint8), ids=(1,))

    with pytest.raises(VosError, match="fault of the method"):
        run_clip(Wrong(), make_clip())


def test_adaptive_method_sees_all_frames_and_prompts_first(make_clip, recorder):
    class Adaptive(recorder):
        def adapt(self, frames, prompts):
            assert not self.calls
            names = [frames.read(index).name for index in range(len(frames))]
            self.adapted = (names, {index: [prompt.object_id for prompt in given] for index, given in prompts.items()})

    segmenter = Adaptive()
    record = run_clip(segmenter, make_clip(births={4: 0, 6: 2}, prompt_rule="first_seen"))
    assert segmenter.adapted == ([f"{i:05d}" for i in range(6)], {0: [4], 2: [6]})
    assert [given for _, given in segmenter.calls if given] == [(4,), (6,)]
    assert record.seconds_adapt > 0


def test_objects_are_counted_without_running(make_clip):
    from vos_core.io.frames import open_clip

    clip = make_clip(births={4: 1, 6: 2, 8: 3}, annotated=(0, 1, 2, 3), prompt_rule="first_seen")
    source = open_clip(clip)
    assert count_objects(clip, source) == 3
    assert list(all_prompts(clip, source)) == [1, 2, 3]
    listed = make_clip("listed", object_ids=(1, 2, 3, 4))
    assert count_objects(listed, open_clip(listed)) == 4


def test_video_file_runs_like_a_folder(make_clip, recorder, tmp_path: Path):
    clip = make_clip(frames=12, size=(64, 64))
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 24, (64, 64))
    for frame in clip.frames:
        writer.write(cv2.imread(str(frame)))
    writer.release()
    segmenter = recorder()
    run_clip(segmenter, Clip(name="v", video=path, annotations=clip.annotations))
    assert [name for name, _ in segmenter.calls] == [f"{i:05d}" for i in range(12)]


@pytest.mark.parametrize("backend", ["pillow", "opencv"])
def test_the_method_names_the_decoder(make_clip, recorder, monkeypatch, backend):
    from vos_core.io import images

    used = []
    read = images.read_image
    note = lambda path, *, backend: used.append(backend) or read(path, backend=backend)  # noqa: E731
    monkeypatch.setattr("vos_core.io.frames.read_image", note)
    run_clip(recorder(), make_clip(frames=3), image_backend=backend)
    assert set(used) == {backend}


def test_a_segmenter_that_asks_learns_the_length_of_the_clip(make_clip, recorder):
    told = []

    class Planner(type(recorder())):
        def expect(self, frames):
            told.append((frames, len(self.calls)))

    clip = make_clip(frames=7)
    run_clip(Planner(), clip)
    assert told == [(7, 0)], "before the first frame, and once"
    views = augment(lambda: Planner(probabilities=True), Augmentation(flip=True))
    run_clip(views, clip)
    assert told[1:] == [(7, 0), (7, 0)], "every view"


def test_the_length_of_a_video_is_counted_for_methods_that_plan_by_it(make_clip, recorder, monkeypatch):
    from vos_core.io.frames import ImageFolder

    clip, told = make_clip(frames=7), []

    class Estimated(ImageFolder):
        """As many frames as a container that is wrong says, until they are counted."""

        names = property(lambda self: self._names if self.is_counted else [*self._names, "x", "y"])
        is_counted = False

        def counted(self):
            self.is_counted = True
            return len(self)

    class Planner(recorder):
        def adapt(self, frames, prompts):
            told.append(len(frames))

    monkeypatch.setattr("vos_core.run.session.open_clip", lambda clip, backend: Estimated(clip.frames))
    run_clip(Planner(), clip)
    assert told == [7]
