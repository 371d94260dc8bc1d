"""Object folders in and out: overlaps survive, every mask may prompt, and a finished run of them is recognised."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vos_core.io.masks import write_object_masks
from vos_core.run.prompts import ClipPrompts
from vos_core.run.runner import run_method
from vos_core.run.sinks import ObjectMaskSink
from vos_core.types import Frame, FrameResult


@pytest.fixture
def folders(make_clip, tmp_path):
    """A clip whose masks are object folders 000 and 004 that overlap on frame 0."""
    clip, root = make_clip(frames=4), tmp_path / "objects"
    left, right = np.zeros((48, 64), bool), np.zeros((48, 64), bool)
    left[:, :40], right[:, 30:] = True, True
    write_object_masks(root, "00000", {0: left, 4: right})
    return replace(clip, annotations={"00000": root}, mask_kind="objects", void=None), left, right


def test_overlapping_object_folders_prompt_whole_masks(folders):
    clip, left, right = folders
    prompts = ClipPrompts(clip, [path.stem for path in clip.frames]).at(0, (48, 64))
    assert [prompt.object_id for prompt in prompts] == [1, 5]
    assert np.array_equal(prompts[0].mask, left)
    assert np.array_equal(prompts[1].mask, right)


def test_rule_all_gives_every_object_of_every_mask(make_clip):
    clip = make_clip(births={3: 0, 7: 2}, annotated=[0, 2, 3])
    names = [path.stem for path in clip.frames]
    seen = ClipPrompts(clip, names)
    every = ClipPrompts(replace(clip, prompt_rule="all", object_ids=(3, 7)), names)
    found = [[[prompt.object_id for prompt in rule.at(index, (48, 64))] for index in range(4)] for rule in (seen, every)]
    assert found == [[[3], [], [7], []], [[3], [], [3, 7], [3, 7]]]


def test_object_masks_are_written_per_object_and_resumed(folders, method, tmp_path):
    clip, out, began = folders[0], tmp_path / "out", []

    def run():
        return run_method(
            method, [clip], output=out, object_masks=True, on_progress=lambda e: e.kind == "began" and began.append(e.clip)
        )

    assert [item.status for item in run().clips] == ["done"]
    assert sorted(str(path.relative_to(out / "clip")) for path in (out / "clip").rglob("*.png")) == [
        f"{folder}/{index:05d}.png" for folder in ("000", "004") for index in range(4)
    ]
    run()
    assert began == ["clip"], "a finished clip must not run again"
    (out / "clip" / "004" / "00002.png").unlink()
    run()
    assert began == ["clip", "clip"]


def test_late_and_removed_objects_have_a_file_for_every_frame(make_clip, tmp_path):
    sink = ObjectMaskSink(tmp_path / "out", make_clip())
    blank = np.zeros((2, 3), np.uint8)
    own = np.ones((1, 2, 3), bool)
    for index, ids in enumerate([(1,), (2,), ()]):
        frame = Frame(index, str(index), np.zeros((2, 3, 3), np.uint8))
        sink.write(frame, FrameResult(labels=blank, ids=ids, masks=own[: len(ids)]))
    sink.close()
    files = tmp_path.rglob("out/*/*.png")
    values = {str(path.relative_to(tmp_path / "out")): np.asarray(Image.open(path)).max() for path in files}
    assert values == {"001/0.png": 1, "001/1.png": 0, "001/2.png": 0, "002/0.png": 0, "002/1.png": 1, "002/2.png": 0}
