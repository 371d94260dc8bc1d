from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from vos_core.data.check import check
from vos_core.errors import LayoutError, UsageError
from vos_core.testing import needs_shared


def faults(*arguments, level="error", **options):
    return {(p.path.name, p.found) for p in check(*arguments, **options) if p.level == level}


def test_a_clean_set_has_only_a_note_on_its_size(davis):
    for depth in ("full", "fast"):
        problems = check("davis", davis.root, depth=depth, workers=2)
        assert [(p.level, p.found) for p in problems] == [("note", "2 clips, the released split has 30")]


def test_every_problem_is_listed_with_a_fix(davis):
    frames, masks = davis / "JPEGImages/480p", davis / "Annotations/480p"
    (frames / "dog/00001.jpg").write_bytes((frames / "dog/00001.jpg").read_bytes()[:-25])
    (frames / "dog/00003.jpg").write_bytes(b"")
    (masks / "dog/00002.png").write_bytes((masks / "dog/00002.png").read_bytes()[:-30])
    davis.masks("Annotations/480p/judo", {"00001": (1,)}, mode="RGB")
    davis.masks("Annotations/480p/judo", {"00002": (1, 2)}, size=(20, 16))
    (masks / "judo/00003.png").unlink()
    davis.text("ImageSets/2017/val.txt", "judo", "dog", "gone")
    problems = check("davis", davis.root)
    found = {p.path.name: p.found for p in problems if p.level == "error"}
    assert set(found) == {"00001.jpg", "00003.jpg", "00002.png", "00001.png", "judo", "gone"}
    assert "cannot be read" in found["00001.jpg"]
    assert found["00003.jpg"] == "frame is empty"
    assert found["judo"] == "masks of frames 00003 are missing: methods run without them, scores need them"
    assert {p.found for p in problems if p.path == masks / "judo/00002.png"} == {"mask is 20x16, frame 00002 is 24x16"}
    assert all(p.fix for p in problems)
    seen_fast = faults("davis", davis.root, depth="fast")
    assert ("judo", found["judo"]) in seen_fast
    assert ("00002.png", "mask is 20x16, frame 00002 is 24x16") in seen_fast
    assert "00001.jpg" not in dict(seen_fast), dict(seen_fast)  # a cut file is found by decoding alone


def test_odd_frame_size(davis):
    davis.frames("JPEGImages/480p/dog", ("00002",), size=(30, 16))
    found = faults("davis", davis.root)
    assert ("00002.jpg", "frame is 30x16, the clip's first one 24x16") in found


def test_ids(youtube):
    assert faults("youtube-vos", youtube.root) == set()
    notes = {p.found for p in check("youtube-vos", youtube.root) if p.level == "note"}
    assert "ids 2, 7 are not 1 to 2" in notes
    youtube.masks("valid/Annotations/aa", {"00015": (9,)})
    found = {text for _, text in faults("youtube-vos", youtube.root)}
    assert found == {"masks hold ids 9 that the meta file does not list", "no mask shows the listed ids 7"}
    assert faults("youtube-vos", youtube.root, depth="fast") == set()


def test_empty_and_void_only_masks(davis):
    davis.masks("Annotations/480p/dog", dict.fromkeys([f"{i:05d}" for i in range(4)], ()))
    davis.masks("Annotations/480p/judo", dict.fromkeys([f"{i:05d}" for i in range(4)], (255,)))
    found = {text for _, text in faults("davis", davis.root)}
    assert "the masks of clip 'dog' show no object" in found
    assert any(("judo" in text and "no object" in text) or "void" in text for text in found)


def test_missing_all_frames_is_a_warning(youtube):
    shutil.rmtree(youtube / "valid_all_frames")
    assert any("all frames" in text for _, text in faults("youtube-vos", youtube.root, level="warning"))


def test_videos_joints_objects_and_sizes_of_their_own_layouts(tree):
    tree.text("k/train2/a/x.mp4", "not a video")
    assert ("x.mp4", "no frame of the video can be decoded") in faults("kinetics", tree / "k")
    tree.frames("j/Rename_Images/c/one", ("00001", "00002"), suffix=".png").text("j/splits/c_test_split1.txt", "one.avi 2")
    (tree / "j/joint_positions/c/one").mkdir(parents=True)
    savemat(tree / "j/joint_positions/c/one/joint_positions.mat", {"pos_img": np.zeros((2, 15, 3))})
    assert faults("jhmdb", tree / "j") == {("joint_positions.mat", "joint positions of 3 frames, the clip has 2")}
    tree.frames("BL30K/JPEGImages/a", ("00000",)).masks("BL30K/Annotations/a", {"00000": (1,)})
    assert faults("bl30k", tree.root) == {("00000.jpg", "frame is 24x16, BL30K has 768x512")}
    tree.frames("sav/JPEGImages_24fps/s", ("00000",)).text("sav/sav_val.txt", "s")
    tree.masks("sav/Annotations_6fps/s/000", {"00000": (1,)}, mode="L", size=(8, 16))
    assert faults("sav", tree / "sav") == {("00000.png", "mask is 8x16, frame 00000 is 24x16")}


def test_wrong_use(davis):
    with pytest.raises(UsageError, match="no layout 'davies'"):
        check("davies", davis.root)
    with pytest.raises(LayoutError, match="does not exist"):
        check("davis", davis / "nowhere")


def test_every_layout_reports_missing_data_without_a_traceback(tree):
    from vos_core.data.layout import LAYOUTS

    (tree.root / "something").mkdir(parents=True)
    for layout in LAYOUTS:
        try:
            assert any(p.level == "error" for p in check(layout, tree.root)), layout
        except LayoutError as error:
            assert str(tree.root) in str(error)


def test_real_clips():
    problems = check("folder", needs_shared("clips"), depth="fast")
    assert {(p.level, p.found) for p in problems if p.level != "warning"} == {("note", "clip 'bedroom' has no mask")}
    narrow = [p for p in problems if p.level == "warning"]  # some sources resized frames and masks by different rules
    assert all(p.found.startswith("mask is 853x480, frame") and p.path.parents[1].name in ("judo", "bike") for p in narrow)
    with Image.open(needs_shared("clips", "caps", "JPEGImages").joinpath("frame_000000.jpg")) as image:
        assert image.size == (480, 853)
    clip = needs_shared("clips", "crowd-44obj")
    assert check("folder", clip) == []
