"""YouTube-VOS, MOSE, LVOS, VOST, SA-V, Long Videos, BL30K, VIP: listing, births and scored frames."""

from __future__ import annotations

import json
import shutil
import warnings

import cv2
import numpy as np
import pytest

from vos_core.data.check import check
from vos_core.data.layout import detect_layout, frame_names, open_layout
from vos_core.errors import LayoutError, UsageError
from vos_core.io.masks import read_clip_objects


def test_youtube_births_outputs_and_all_frames(youtube):
    videos = open_layout("youtube-vos", youtube.root)
    clip = videos.clip("aa")
    assert frame_names(clip) == tuple(f"{i:05d}" for i in range(5, 21))  # between the first and last listed frame
    assert clip.outputs == {"00005", "00010", "00015", "00020"}
    assert (clip.object_ids, clip.prompt_rule) == ((2, 7), "first_seen")
    assert videos.first_annotations("aa") == {2: 0, 7: 10}
    assert videos.scored("aa", 2) == ("00010", "00015", "00020")
    assert videos.scored("aa", 7) == ("00020",)
    assert detect_layout(youtube.root) == "youtube-vos"


def test_youtube_without_all_frames_warns_loudly(youtube):
    shutil.rmtree(youtube / "valid_all_frames")
    with pytest.warns(UserWarning, match="all frames .* are missing"):
        videos = open_layout("youtube-vos", youtube.root)
    assert frame_names(videos.clip("aa")) == ("00005", "00010", "00015", "00020")
    assert videos.first_annotations("aa") == {2: 0, 7: 2}
    with pytest.raises(LayoutError, match="valid_all_frames"):
        open_layout("youtube-vos", youtube.root, frames="all")


def test_youtube_roots(youtube, recwarn):
    all_frames = youtube / "all_frames"
    all_frames.mkdir()
    (youtube / "valid_all_frames").rename(all_frames / "valid_all_frames")
    assert len(open_layout("youtube-vos", youtube.root, frames="all").clip("aa").frames) == 16
    assert open_layout("youtube-vos", youtube / "valid", frames="listed").names == ("aa",)
    base = youtube.root.parent / "YTB"
    for year in ("2018", "2019"):
        shutil.copytree(youtube.root, base / year)
    with pytest.raises(UsageError, match="2018 and 2019"):
        open_layout("youtube-vos", base)
    assert open_layout("youtube-vos", base, year=2019, frames="listed").name == "youtube-vos-2019-valid"


@pytest.mark.parametrize("split", ["train", "train_480p"])
def test_youtube_train_needs_every_listed_mask(youtube, split):
    (youtube / "valid").rename(youtube / split)
    with pytest.raises(LayoutError, match="masks 00010, 00020 of object 2 are missing"):
        open_layout("youtube-vos", youtube.root, split)
    youtube.masks(f"{split}/Annotations/aa", {"00010": (2,), "00015": (2, 7), "00020": (2, 7)})
    videos = open_layout("youtube-vos", youtube.root, split)
    assert videos.clip("aa").outputs is None
    assert len(videos.clip("aa").annotations) == 4


def test_youtube_faults_of_meta(youtube):
    youtube.frames("valid/JPEGImages/zz", ("00000",)).masks("valid/Annotations/zz", {"00000": (1,)})
    (youtube / "valid/JPEGImages/aa/00010.jpg").unlink()
    (youtube / "valid/Annotations/aa/00015.png").unlink()
    found = [p.found for p in open_layout("youtube-vos", youtube.root, frames="listed", on_problem="keep").problems]
    assert found == [
        "masks 00015 of object 7 are missing",
        "frames 00010 of meta.json are missing",
        "the video is not in meta.json",
    ]
    youtube.text("valid/meta.json", "{")
    with pytest.raises(LayoutError, match=r"meta\.json cannot be read"):
        open_layout("youtube-vos", youtube.root, frames="listed")
    (youtube / "valid/meta.json").unlink()
    with pytest.raises(LayoutError, match="list of videos, objects and frames is missing"):
        open_layout("youtube-vos", youtube.root, frames="listed")


def test_mose(tree):
    tree.frames("valid/JPEGImages/v1", ("00000", "00001")).masks("valid/Annotations/v1", {"00000": (1, 3)})
    tree.frames("train/JPEGImages/v2", ("00000", "00001")).masks("train/Annotations/v2", {"00000": (1,), "00001": (1, 2)})
    videos = open_layout("mose", tree.root)
    assert videos.clip("v1").prompt_rule == "first_frame"
    assert videos.first_annotations("v1") == {1: 0, 3: 0}
    assert open_layout("mose", tree.root, "train").first_annotations("v2") == {1: 0, 2: 1}
    assert detect_layout(tree.root) == "mose"
    tree.json("valid/meta_valid.json", {"videos": {"v1": {"objects": {"1": {}, "3": {}}}, "v9": {"objects": {"1": {}}}}})
    with pytest.raises(LayoutError, match=r"v9: the video is in .*meta_valid\.json but not on disk"):
        open_layout("mose", tree.root, version=2)
    with pytest.raises(UsageError, match="no version 3"):
        open_layout("mose", tree.root, version=3)


@pytest.fixture
def lvos(tree):
    names = [f"{1 + 5 * i:08d}" for i in range(6)]
    tree.frames("valid/JPEGImages/abcdefgh", names)
    tree.masks("valid/Annotations/abcdefgh", {name: (1,) if i < 3 else (1, 4) for i, name in enumerate(names)})
    ranges = {
        "1": {"frame_range": {"start": "1", "end": "26", "frame_nums": "6"}},
        "4": {"frame_range": {"start": "16", "end": "27", "frame_nums": "3"}},
    }
    return tree.json("valid_meta.json", {"videos": {"abcdefgh": {"objects": ranges}}})


def test_lvos_ranges(lvos):
    videos = open_layout("lvos", lvos.root)
    assert videos.first_annotations("abcdefgh") == {1: 0, 4: 3}
    assert videos.clip("abcdefgh").prompt_rule == "first_seen"
    # Every fifth number below `end`, first and last left out: 26 is not below 26, so only frames 6 to 21 of object 1.
    assert videos.scored("abcdefgh", 1) == ("00000006", "00000011", "00000016", "00000021")
    assert videos.scored("abcdefgh", 4) == ("00000021",)
    assert detect_layout(lvos.root) == "lvos"
    assert open_layout("lvos", lvos.root, "val").split == "valid"


def test_lvos_nested_root_and_faults(lvos):
    (lvos / "valid").rename(lvos / "inner")
    (lvos / "valid").mkdir()
    (lvos / "inner").rename(lvos / "valid/valid")
    assert open_layout("lvos", lvos.root).names == ("abcdefgh",)
    lvos.json("valid_meta.json", {"videos": {"abcdefgh": {"objects": {"1": {}}}, "gone": {"objects": {}}}})
    found = [p.found for p in open_layout("lvos", lvos.root, on_problem="keep").problems if p.level == "error"]
    assert any("but not on disk" in text for text in found)
    assert "object '1' of video abcdefgh has no frame_range" in found
    (lvos / "valid_meta.json").unlink()
    with pytest.raises(LayoutError, match="frame ranges is missing"):
        open_layout("lvos", lvos.root)


@pytest.fixture
def vost(tree):
    tree.frames("JPEGImages_10fps/1_cut", [f"frame{i:05d}" for i in (12, 18, 24, 30)])
    tree.frames("JPEGImages/1_cut", ("frame00012", "frame00024"))
    tree.masks("Annotations/1_cut", {"frame00012": (1, 255), "frame00024": (1,)})
    return tree.text("ImageSets/val.txt", "1_cut")


def test_vost(vost):
    videos = open_layout("vost", vost.root)
    assert len(videos.clip("1_cut").frames) == 4
    assert len(open_layout("vost", vost.root, fps=5).clip("1_cut").frames) == 2
    assert videos.first_annotations("1_cut") == {1: 0}
    assert detect_layout(vost.root) == "vost"
    shutil.rmtree(vost / "JPEGImages_10fps")
    with pytest.warns(UserWarning, match="10 fps frames are missing"):
        open_layout("vost", vost.root)
    with pytest.raises(LayoutError):
        open_layout("vost", vost.root, fps=10)


def test_vost_sorts_by_string_and_needs_the_first_mask(vost):
    vost.frames("JPEGImages_10fps/1_cut", ("frame100000",))
    assert open_layout("vost", vost.root).clip("1_cut").frames[-1].stem == "frame100000"
    assert [p.stem for p in open_layout("vost", vost.root).clip("1_cut").frames][:2] == ["frame00012", "frame00018"]
    (vost / "Annotations/1_cut/frame00012.png").unlink()
    with pytest.raises(LayoutError, match=r"mask frame00012\.png of the first frame is missing"):
        open_layout("vost", vost.root)


def sav_training_video(folder, *, name="sav_000001", ids=(0, 1)):
    """A video of 12 frames, whose second object comes at its third annotated frame."""
    folder.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(folder / f"{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 24, (24, 16))
    for index in range(12):
        writer.write(np.full((16, 24, 3), 9 * index, np.uint8))
    writer.release()
    # Column-major runs: background, object, background; 384 pixels in all.
    seen, late = {"size": [16, 24], "counts": [40, 8, 336]}, {"size": [16, 24], "counts": [44, 8, 332]}
    rows = [[seen, None], [seen, None], [seen, late]]
    return {"video_id": name, "video_frame_count": 12.0, "masklet": rows, "masklet_id": list(ids)}


def test_sav_training_videos(tree):
    folder = tree / "sav_train/sav_000"
    tree.json("sav_train/sav_000/sav_000001_manual.json", sav_training_video(folder))
    tree.json("sav_train/sav_000/sav_000001_auto.json", sav_training_video(folder, ids=(7, 9)))
    tree.json("sav_train/sav_001/sav_001000_manual.json", sav_training_video(tree / "sav_train/sav_001", name="sav_001000"))
    videos = open_layout("sav", tree.root, "train")
    assert videos.names == ("sav_000001", "sav_001000")
    clip = videos.clip("sav_000001")
    assert clip.video == folder / "sav_000001.mp4"
    assert list(clip.annotations) == ["00000", "00004", "00008"]
    assert videos.first_annotations("sav_000001") == {1: 0, 2: 8}, "ids are one higher than in the file, which counts from 0"
    assert open_layout("sav", tree.root, "train_auto").first_annotations("sav_000001") == {7: 0, 9: 8}
    masks = read_clip_objects(clip, "00008", (16, 24))
    flat = {object_id: np.flatnonzero(mask.ravel(order="F")).tolist() for object_id, mask in masks.items()}
    assert flat == {1: list(range(40, 48)), 2: list(range(44, 52))}, "overlaps are kept"
    assert not read_clip_objects(clip, "00004")[2].any()
    assert detect_layout(tree.root) == detect_layout(tree / "sav_train") == detect_layout(folder) == "sav"
    (note,) = open_layout("sav", tree.root, "train_auto", on_problem="keep").problems
    assert (note.level, "sav_001000" in note.found) == ("note", True)
    assert check("sav", tree.root, "train") == []


def test_faults_of_sav_training_videos(tree):
    folder = tree / "sav_train/sav_000"
    whole = sav_training_video(folder)
    path = folder / "sav_000001_manual.json"

    def faults(value):
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return [problem.found for problem in check("sav", tree.root, "train")]

    assert "not valid JSON" in faults(json.dumps(whole)[:90])[0]
    assert "beyond the 12 frames" in faults({**whole, "frames": ["00000", "00004", "00012"]})[0]
    small = {"size": [8, 12], "counts": [40, 8, 48]}
    assert "masks are 12x8, the video is 24x16" in faults({**whole, "masklet": [[small, None]] * 3})[0]
    empty = {"size": [16, 24], "counts": [384]}
    assert faults({**whole, "masklet": [[empty, None]] * 3}) == ["no mask shows an object"]
    torn = {"size": [16, 24], "counts": "X1"}
    assert "sav_000001_manual.json" in faults({**whole, "masklet": [[torn, None]] * 3})[0]
    (folder / "sav_000001.mp4").write_bytes(b"no video")
    assert "can be decoded" in faults(whole)[0]
    (folder / "sav_000001.mp4").unlink()
    assert faults(whole) == ["its video sav_000001.mp4 is missing"]
    path.unlink()
    with pytest.raises(LayoutError, match="no SA-V training video"):
        open_layout("sav", tree.root, "train")


def test_sav(tree):
    tree.frames("sav_val/JPEGImages_24fps/sav_1", [f"{i:05d}" for i in range(9)])
    tree.masks("sav_val/Annotations_6fps/sav_1/000", {"00000": (1,), "00004": (1,), "00008": (1,)}, mode="L")
    tree.masks("sav_val/Annotations_6fps/sav_1/002", {"00004": (1,), "00008": (1,)}, mode="L")
    tree.text("sav_val/sav_val.txt", "sav_1")
    videos = open_layout("sav", tree.root)
    clip = videos.clip("sav_1")
    assert clip.mask_kind == "objects"
    assert list(clip.annotations) == ["00000", "00004", "00008"]
    assert set(clip.annotations.values()) == {tree / "sav_val/Annotations_6fps/sav_1"}
    assert list(videos.first_annotations("sav_1").values()) == [0, 4]
    assert detect_layout(tree.root) == detect_layout(tree / "sav_val") == "sav"
    tree.masks("sav_val/Annotations_6fps/sav_1/002", {"00099": (1,)}, mode="L")
    with pytest.raises(LayoutError, match="masks 00099 belong to no frame"):
        open_layout("sav", tree / "sav_val")


def test_long_videos(tree):
    tree.frames("JPEGImages/480p/rat", [f"{i:05d}" for i in range(5)])
    tree.masks("Annotations/480p/rat", {"00000": (255,), "00004": (255,)}, mode="L").text("ImageSets/2017/val.txt", "rat")
    videos = open_layout("long-videos", tree.root, on_problem="keep")
    assert videos.first_annotations("rat") == {1: 0}
    assert [p.found for p in videos.problems] == ["1 clips, the released split has 3"]
    assert detect_layout(tree.root) == "long-videos"


def test_bl30k_and_vip(tree):
    tree.frames("BL30K/JPEGImages/a", ("00000", "00001")).masks("BL30K/Annotations/a", {"00000": (1,), "00001": (1,)})
    assert open_layout("bl30k", tree.root).names == ("a",)
    assert open_layout("bl30k", tree / "BL30K").names == ("a",)
    assert detect_layout(tree.root) == "bl30k"
    tree.frames("vip/Images/videos1", ("2", "10", "1")).masks(
        "vip/Annotations/Category_ids/videos1", dict.fromkeys(("1", "2", "10"), (4, 19)), mode="L"
    )
    tree.text("vip/lists/val_videos.txt", "videos1")
    clip = open_layout("vip", tree / "vip", on_problem="keep").clip("videos1")
    assert [path.stem for path in clip.frames] == ["1", "2", "10"]
    assert detect_layout(tree / "vip") == "vip"


def keep_one_mask(folder, name):
    """Delete all masks of a clip but one, as benchmark servers give their test sets."""
    for path in folder.iterdir():
        if path.stem != name:
            path.unlink()


@pytest.mark.parametrize(
    ("layout", "split", "clip", "masks"),
    [
        ("davis", "val", "judo", "Annotations/480p/judo"),
        ("davis", "test-dev", "judo", "Annotations/480p/judo"),
        ("youtube-vos", "valid", "aa", "valid/Annotations/aa"),
        ("mose", "valid", "v1", "valid/Annotations/v1"),
        ("lvos", "valid", "abcdefgh", "valid/Annotations/abcdefgh"),
        ("lvos", "test", "abcdefgh", "test/Annotations/abcdefgh"),
        ("vost", "val", "1_cut", "Annotations/1_cut"),
        ("vost", "test", "1_cut", "Annotations/1_cut"),
        ("long-videos", "val", "rat", "Annotations/rat"),
        ("sav", "test", "sav_1", "sav_test/Annotations_6fps/sav_1/000"),
    ],
)
def test_first_masks_are_enough_to_run_and_the_first_is_needed(request, tree, layout, split, clip, masks):
    if layout in ("davis", "lvos", "vost"):
        request.getfixturevalue(layout)
        tree.text("ImageSets/2017/test-dev.txt", "judo").text("ImageSets/test.txt", "1_cut")
        if (layout, split) == ("lvos", "test"):
            (tree / "valid").rename(tree / "test")
            (tree / "valid_meta.json").rename(tree / "test_meta.json")
    elif layout == "youtube-vos":
        request.getfixturevalue("youtube")
        tree.json("valid/meta.json", {"videos": {"aa": {"objects": {"2": {"frames": ["00005", "00010"]}}}}})
        tree.masks(masks, {"00005": (2,), "00010": (2,)})
        (tree / "valid/Annotations/aa/00015.png").unlink()
    elif layout == "sav":
        tree.frames("sav_test/JPEGImages_24fps/sav_1", [f"{i:05d}" for i in range(9)])
        tree.masks(masks, {"00000": (1,), "00004": (1,), "00008": (1,)}, mode="L").text("sav_test/sav_test.txt", clip)
    else:
        where = "valid/" if layout == "mose" else ""
        tree.frames(f"{where}JPEGImages/{clip}", ("00000", "00001")).masks(masks, {"00000": (1,), "00001": (1,)})
        tree.text("ImageSets/val.txt", clip)
    whole = open_layout(layout, tree.root, split)
    first = whole.clip(clip).frames[0].stem
    keep_one_mask(tree / masks, first)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*methods run without them, scores need them")
        videos = open_layout(layout, tree.root, split)
    assert list(videos.clip(clip).annotations) == [first]
    assert videos.clip(clip).frames == whole.clip(clip).frames
    assert min(videos.first_annotations(clip).values()) == 0
    assert [p for p in check(layout, tree.root, split, depth="fast") if p.level == "error" and not p.scores_only] == []
    (tree / masks / f"{first}.png").unlink()
    with pytest.raises(LayoutError, match=r"mask|masks"):
        open_layout(layout, tree.root, split)


def test_masks_that_only_scores_need_are_warned_of_once(davis):
    for name in ("dog", "judo"):
        keep_one_mask(davis / "Annotations/480p" / name, "00000")
    with pytest.warns(UserWarning, match="methods run without them, scores need them") as said:
        open_layout("davis", davis.root, "val")
    assert len(said) == 1
    assert "of 1 more: see `vos data check davis" in str(said[0].message)
    found = [(p.level, p.path.name, p.found) for p in check("davis", davis.root) if p.level != "note"]  # it wants the whole set
    text = "masks of frames 00001, 00002, 00003 are missing: methods run without them, scores need them"
    assert found == [("error", "judo", text), ("error", "dog", text)]
    with pytest.raises(LayoutError, match="masks of frames 00001, 00002, 00003 are missing"):
        open_layout("davis", davis.root, "train")
