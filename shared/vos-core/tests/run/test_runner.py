from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vos_core.baseline.copy import METHOD as COPY
from vos_core.baseline.flow import METHOD as FLOW
from vos_core.contract import MethodInfo
from vos_core.errors import InterruptError, OutputError, UsageError, WeightsError
from vos_core.io.frames import clip_fps
from vos_core.run.record import read_run
from vos_core.run.runner import choose_variant, choose_weights, run_method
from vos_core.run.tta import Augmentation
from vos_core.types import Clip


def digest(folder: Path) -> dict[str, str]:
    """Every file below `folder` but run.json, hidden ones as well -> its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def test_masks_and_record(make_clip, tmp_path):
    clips = [make_clip("a", births={3: 0, 7: 2}), make_clip("b", frames=4)]
    record = run_method(COPY, clips, output=tmp_path / "out", device="cpu")
    assert [(clip.name, clip.status, clip.frames, clip.objects) for clip in record.clips] == [
        ("a", "done", 6, 2),
        ("b", "done", 4, 1),
    ]
    labels = np.asarray(Image.open(tmp_path / "out" / "a" / "00004.png"))
    assert labels.shape == (48, 64)
    assert set(np.unique(labels)) == {0, 3, 7}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "run.json"]
    assert len(list((tmp_path / "out" / "a").iterdir())) == 6

    data = json.loads((tmp_path / "out" / "run.json").read_text())
    assert data["method"] == "copy"
    assert data["weights"] == {"name": "none", "sha256": None, "trained": True}
    assert {"python", "cpu", "versions", "device"} <= data["environment"].keys()
    assert len(data["clips"][0]["step_seconds"]) == 6
    assert read_run(tmp_path / "out") == record


def test_outputs_restrict_what_is_written_and_binary_writes_0_255(make_clip, tmp_path):
    clip = make_clip(outputs=frozenset({"00001", "00004"}), binary_output=True)
    record = run_method(COPY, [clip], output=tmp_path / "out")
    assert sorted(path.stem for path in (tmp_path / "out" / "clip").iterdir()) == ["00001", "00004"]
    assert record.clips[0].frames == 6
    image = Image.open(tmp_path / "out" / "clip" / "00001.png")
    assert image.mode == "L"
    assert set(np.unique(np.asarray(image))) == {0, 255}


def test_palette_is_davis_or_that_of_the_first_mask(make_clip, tmp_path):
    clip = make_clip()
    first = Image.fromarray(np.asarray(Image.open(clip.annotations["00000"])), mode="P")
    first.putpalette([9, 8, 7] * 256)
    first.save(clip.annotations["00000"])
    for palette, expected in (("davis", [0, 0, 0, 128, 0, 0]), ("first", [9, 8, 7, 9, 8, 7]), ("aot", [0, 0, 0, 128, 0, 0])):
        run_method(COPY, [clip], output=tmp_path / palette, palette=palette)
        assert Image.open(tmp_path / palette / "clip" / "00002.png").getpalette()[:6] == expected


def test_done_clips_are_kept_and_a_changed_one_runs_again(make_clip, tmp_path, method):
    clips, out = [make_clip("a"), make_clip("b")], tmp_path / "out"

    def names(run_clips, **options):
        began: list[str] = []
        run_method(method, run_clips, output=out, on_progress=lambda e: e.kind == "began" and began.append(e.clip), **options)
        return began

    assert names(clips) == ["a", "b"]
    before = digest(out)
    assert names(clips) == []
    assert names(clips, resume=False) == ["a", "b"]
    (out / "b" / "00003.png").unlink()
    assert names(clips) == ["b"]
    assert names([*clips, make_clip("c")]) == ["c"]
    assert {clip.name for clip in read_run(out).clips} == {"a", "b", "c"}
    assert names([replace(clips[0], outputs=frozenset({"00002"}))]) == ["a"]
    assert [path.name for path in (out / "a").iterdir()] == ["00002.png"], "masks of the old selection are stale"
    assert names(clips) == ["a"]
    assert {key: value for key, value in digest(out).items() if key[0] != "c"} == before


def test_other_settings_are_refused_by_name(make_clip, tmp_path):
    clip, out = make_clip(), tmp_path / "out"
    run_method(FLOW, [clip], output=out)
    before = digest(out)
    with pytest.raises(UsageError, match=r"results of another run: options was.*now.*ultrafast.*--overwrite"):
        run_method(FLOW, [clip], output=out, options={"preset": "ultrafast"})
    with pytest.raises(UsageError, match="method was 'flow', now 'copy'"):
        run_method(COPY, [clip], output=out)
    assert digest(out) == before
    run_method(COPY, [clip], output=out, overwrite=True)
    assert read_run(out).method == "copy"
    run_method(COPY, [clip], output=out)


def test_masks_of_unknown_origin_are_not_replaced(make_clip, tmp_path):
    clip, out = make_clip(), tmp_path / "out"
    (out / "clip").mkdir(parents=True)
    (out / "clip" / "precious.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="did not write"):
        run_method(COPY, [clip], output=out)
    assert (out / "clip" / "precious.png").read_bytes() == b"mine"


def test_results_never_go_where_the_input_lies(make_clip, tmp_path):
    clip = make_clip()
    for folder in ("JPEGImages", "Annotations"):
        with pytest.raises(UsageError, match="holds its input"):
            run_method(COPY, [clip], output=tmp_path / "data" / folder, overwrite=True)
    assert clip.annotations["00000"].is_file()


def test_one_failing_clip_does_not_stop_the_others(make_clip, tmp_path, method, caplog):
    bad = make_clip("bad")
    bad.frames[2].write_bytes(bad.frames[2].read_bytes()[:300])
    clips = [make_clip("a"), bad, make_clip("z")]
    record = run_method(COPY, clips, output=tmp_path / "out")
    assert [clip.status for clip in record.clips] == ["done", "failed", "done"]
    assert "00002.jpg" in record.clips[1].error

    with caplog.at_level(logging.ERROR, logger="vos_core.run"):
        record = run_method(
            method, [make_clip("q"), make_clip("r", frames=3)], output=tmp_path / "two", options={"fail_at": "00004"}
        )
    assert [clip.status for clip in record.clips] == ["failed", "done"]
    assert record.clips[0].error == "RuntimeError: out of luck"
    assert "out of luck" in caplog.text, "a fault of the method leaves its traceback in the log"


def test_interrupt_keeps_finished_work_and_says_how_to_go_on(make_clip, tmp_path, method):
    clips, out = [make_clip("a"), make_clip("b"), make_clip("c")], tmp_path / "out"

    def stop(event):
        if event.clip == "b" and event.kind == "frame" and event.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(InterruptError, match=r"1 of 3 clips done.*same command again") as caught:
        run_method(method, clips, output=out, on_progress=stop)
    assert caught.value.exit_code == 130
    assert [clip.status for clip in read_run(out).clips] == ["done", "skipped", "skipped"]
    began = []
    run_method(method, clips, output=out, on_progress=lambda e: e.kind == "began" and began.append(e.clip))
    assert began == ["b", "c"]
    run_method(method, clips, output=tmp_path / "whole")
    assert digest(out) == digest(tmp_path / "whole")


@pytest.mark.parametrize("processes", [1, 2])
def test_soft_results_overlay_and_views(make_clip, tmp_path, processes):
    from vos_core.run.sinks import read_soft

    clips = [make_clip("a", births={5: 0, 9: 1}), make_clip("b")]
    record = run_method(
        FLOW,
        clips,
        output=tmp_path / "out",
        soft=tmp_path / "soft",
        overlay="webm",
        augmentation=Augmentation(flip=True, scales=(1.0, 0.5)),
        processes=processes,
        threads=1,
    )
    assert [clip.status for clip in record.clips] == ["done", "done"], record
    probs, ids = read_soft(tmp_path / "soft" / "a" / "00003.npz")
    assert ids == (5, 9)
    assert probs.shape == (3, 48, 64)
    labels = np.asarray(Image.open(tmp_path / "out" / "a" / "00003.png"))
    assert (np.asarray([0, 5, 9])[probs.argmax(0)] == labels).mean() > 0.99
    assert (tmp_path / "out" / "a.webm").stat().st_size > 100


def test_an_overlay_plays_as_fast_as_its_video(make_clip, tmp_path):
    clip, video = make_clip(frames=8, size=(64, 64)), tmp_path / "clip [a].avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    for frame in clip.frames:
        writer.write(cv2.imread(str(frame)))
    writer.release()
    leftover = tmp_path / "out" / ".clip [a].killed.webm"
    leftover.parent.mkdir()
    leftover.write_bytes(b"")
    filmed = Clip("clip [a]", video=video, annotations=clip.annotations)
    run_method(COPY, [filmed, clip], output=tmp_path / "out", overlay="webm", device="cpu")
    assert [clip_fps(Clip("o", video=tmp_path / "out" / f"{name}.webm")) for name in ("clip [a]", "clip")] == [10, 24]
    assert not leftover.exists(), "what a killed run left is tidied away, whatever its name"


def test_clips_with_more_objects_than_slots_run_in_groups(make_clip, tmp_path, narrow):
    clips = [
        make_clip("few", births={1: 0}),
        make_clip("many", births={2: 0, 5: 0, 3: 1, 300: 2}),
        make_clip("two", births={1: 0, 2: 0}),
    ]
    record = run_method(narrow, clips, output=tmp_path / "out")
    assert [(clip.status, clip.objects) for clip in record.clips] == [("done", 1), ("done", 4), ("done", 2)]
    assert set(np.unique(np.asarray(Image.open(tmp_path / "out" / "many" / "00003.png")))) == {0, 2, 3, 5, 300}


def test_clips_without_a_mask_fail_or_are_left_out_with_the_reason(make_clip, tmp_path):
    clips = [make_clip("a"), make_clip("bare", annotated=())]
    events: list[tuple[str, str]] = []
    record = run_method(
        COPY, clips, output=tmp_path / "out", without_mask="skip", on_progress=lambda e: events.append((e.clip, e.kind))
    )
    assert [clip.status for clip in record.clips] == ["done", "skipped"]
    assert "no mask" in record.clips[1].error
    assert ("bare", "ended") in events
    assert ("bare", "began") not in events
    assert read_run(tmp_path / "out") == record
    assert run_method(COPY, clips, output=tmp_path / "out", without_mask="skip").clips == record.clips
    failed = run_method(COPY, clips, output=tmp_path / "named").clips[1]
    assert (failed.status, "no mask" in failed.error) == ("failed", True)
    with pytest.raises(UsageError, match="none of the 1 clips has a mask"):
        run_method(COPY, clips[1:], output=tmp_path / "none", without_mask="skip")


@pytest.mark.parametrize(("objects", "warned"), [(20, False), (21, True)])
def test_a_first_mask_with_very_many_objects_is_warned_of_and_run(make_clip, tmp_path, objects, warned):
    clip = make_clip(births=dict.fromkeys(range(1, objects + 1), 0), size=(32, 320), frames=2)
    (found,) = run_method(COPY, [clip], output=tmp_path / "out").clips
    assert (found.status, found.objects) == ("done", objects)
    assert bool(found.warnings) == warned
    if warned:
        assert "00000.png, holds 21 objects" in found.warnings[0]


def test_late_objects_are_not_counted_into_the_first_mask(make_clip, tmp_path):
    clip = make_clip(births={k: k // 12 for k in range(1, 24)}, size=(32, 340), frames=2)
    (found,) = run_method(COPY, [clip], output=tmp_path / "out").clips
    assert (found.objects, found.warnings) == (23, ())


def test_bad_requests_are_refused_before_anything_is_written(make_clip, tmp_path):
    clip, out = make_clip(), tmp_path / "out"
    for arguments, text in (
        ({"clips": []}, "no clips"),
        ({"clips": [clip, clip]}, "more than once"),
        ({"clips": [replace(clip, name="../up")]}, "cannot name a result folder"),
        ({"processes": 0}, "1 or more"),
        ({"variant": "xl"}, "no variant 'xl'"),
        ({"weights": "w.pth"}, "takes no weights"),
        ({"device": "tpu"}, "unknown device"),
        ({"precision": "fp8"}, "unknown precision"),
        ({"options": {"presett": 1}}, "did you mean"),
    ):
        with pytest.raises(UsageError, match=text):
            run_method(FLOW, **{"clips": [clip], "output": out, **arguments})
    assert not list(out.glob("*/*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        run_method(COPY, [clip], output=tmp_path / "file")


def test_weights_are_named_or_refused(tmp_path):
    info = MethodInfo(name="m", summary="", build=FLOW.build, variants=("s", "l"), weights={"s": ("none-such",), "l": ()})
    assert choose_variant(info, None) == "s"
    assert choose_weights(info, "s", "random").record == {"name": "random", "sha256": None, "trained": False}
    with pytest.raises(WeightsError, match=r"--weights FILE.*--weights random"):
        choose_weights(info, "s", "auto")
    with pytest.raises(WeightsError, match=r"no released weights.*--weights FILE"):
        choose_weights(info, "l", None)
    file = tmp_path / "w.pth"
    file.write_bytes(b"abc")
    chosen = choose_weights(info, "l", str(file))
    assert chosen.record == {"name": "w.pth", "sha256": hashlib.sha256(b"abc").hexdigest(), "trained": True}


def test_torn_run_record_is_explained(make_clip, tmp_path):
    out = tmp_path / "out"
    run_method(COPY, [make_clip()], output=out)
    (out / "run.json").write_text('{"clips": [')
    with pytest.raises(OutputError, match=r"run\.json is not valid JSON.*--overwrite"):
        run_method(COPY, [make_clip("b")], output=out)
    with pytest.raises(OutputError):
        read_run(tmp_path)
