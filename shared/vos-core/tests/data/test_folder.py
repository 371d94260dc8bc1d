from __future__ import annotations

import pytest
from PIL import Image

from vos_core.data.folder import open_folder, single_video
from vos_core.data.layout import detect_layout, frame_names, open_layout
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.testing import needs_shared


@pytest.mark.parametrize("form", ["JPEGImages/{}", "{}/JPEGImages"])
def test_both_orders_any_image_type_and_sparse_masks(tree, form):
    masks = form.replace("JPEGImages", "Annotations")
    tree.frames(form.format("a"), ("frame_9", "frame_10"), suffix=".webp")
    tree.frames(form.format("a"), ("frame_11",), suffix=".BMP")
    tree.masks(masks.format("a"), {"frame_10": (3,), "frame_11": (3, 200)})
    tree.frames(form.format("b"), ("1",), suffix=".jpeg")
    videos = open_folder(tree.root)
    assert [(p.level, p.found) for p in videos.problems] == [("note", "clip 'b' has no mask")]
    assert frame_names(videos.clip("a")) == ("frame_9", "frame_10", "frame_11")
    assert videos.first_annotations("a") == {3: 1, 200: 2}
    assert videos.unannotated == ("b",)
    assert [clip.name for clip in videos] == ["a", "b"]
    assert detect_layout(tree.root) == "folder"


def test_split_file_chooses_clips(tree, tmp_path):
    for name in "abc":
        tree.frames(f"JPEGImages/{name}", ("0",)).masks(f"Annotations/{name}", {"0": (1,)})
    (tmp_path / "mine.txt").write_text("c\na\n")
    assert open_layout("folder", tree.root, str(tmp_path / "mine.txt")).names == ("c", "a")
    with pytest.raises(UsageError, match="is not a file"):
        open_layout("folder", tree.root, "val")
    (tmp_path / "mine.txt").write_text("x\n")
    with pytest.raises(UsageError, match="no clip 'x'"):
        open_layout("folder", tree.root, str(tmp_path / "mine.txt"))


def test_one_clip(tree):
    tree.frames("", ("5", "6")).masks("Annotations", {"6": (1,)})
    assert open_folder(tree.root).clip("set").annotations == {"6": tree / "Annotations/6.png"}
    tree.masks("elsewhere", {"first": (1, 2)})
    given = open_layout("folder", tree.root, masks=tree / "elsewhere/first.png")
    assert given.clip("set").annotations == {"5": tree / "elsewhere/first.png"}


def test_binary_is_recognised_and_palette_255_is_not(tree):
    tree.frames("JPEGImages/grey", ("0", "1")).masks("Annotations/grey", {"0": (), "1": (255,)}, mode="L")
    tree.frames("JPEGImages/void", ("0", "1")).masks("Annotations/void", {"0": (255,), "1": (1,)})
    tree.frames("JPEGImages/ids", ("0",)).masks("Annotations/ids", {"0": (1, 255)}, mode="L")
    videos = open_folder(tree.root)
    assert [videos.clip(name).mask_kind for name in ("grey", "void", "ids")] == ["binary", "labels", "labels"]
    assert videos.first_annotations("grey") == {1: 1}
    assert videos.first_annotations("void") == {1: 1}


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_black_and_white_is_binary_however_it_was_saved(tree, mode):
    tree.frames("JPEGImages/a", ("0", "1")).masks("Annotations/a", {"0": (), "1": (255,)}, mode="L")
    for path in (tree / "Annotations/a").iterdir():
        Image.open(path).convert(mode).save(path)
    videos = open_folder(tree.root)
    assert videos.clip("a").mask_kind == "binary"
    assert videos.first_annotations("a") == {1: 1}


def test_strangers_duplicates_and_empty_folders(tree):
    tree.frames("JPEGImages/a", ("0",)).masks("Annotations/a", {"0": (1,), "7": (1,)})
    with pytest.raises(LayoutError, match="masks 7 belong to no frame of clip 'a'"):
        open_folder(tree.root)
    (tree / "Annotations/a/7.png").unlink()
    tree.frames("JPEGImages/a", ("0",), suffix=".png")
    with pytest.raises(LayoutError, match="two frames are called '0'"):
        open_folder(tree.root)
    (tree / "JPEGImages/empty").mkdir()
    found = open_layout("folder", tree.root, on_problem="keep").problems
    assert any("frame folder of clip 'empty' has no image" in problem.found for problem in found)
    with pytest.raises(LayoutError, match="holds no clip"):
        open_folder(tree / "Annotations/a/..")
    with pytest.raises(LayoutError, match="does not exist"):
        open_folder(tree / "nowhere")


def test_single_video(tree):
    tree.frames("frames", ("00003", "00004", "00010")).masks("masks", {"mask": (1,), "00004": (1,)})
    assert single_video(tree / "frames").annotations == {}
    assert single_video(tree / "frames", tree / "masks/mask.png").annotations == {"00003": tree / "masks/mask.png"}
    assert single_video(tree / "frames", tree / "masks/00004.png").annotations == {"00004": tree / "masks/00004.png"}
    assert set(single_video(tree / "frames", tree / "masks").annotations) == {"00004"}
    assert single_video(tree / "frames", name="mine").name == "mine"
    (tree / "clip.mp4").write_bytes(b"0")
    video = single_video(tree / "clip.mp4", tree / "masks/mask.png")
    assert (video.name, video.video, video.frames) == ("clip", tree / "clip.mp4", ())
    assert set(video.annotations) == {"00000"}
    tree.masks("numbered", {"12": (1,)})
    assert set(single_video(tree / "clip.mp4", tree / "numbered").annotations) == {"00012"}


def test_single_video_faults(tree):
    tree.frames("frames", ("0",)).masks("masks", {"7": (1,)})
    (tree / "none").mkdir()
    for path in ("none", "gone.mp4", "frames/0.jpg"):
        with pytest.raises(FrameError, match=path):
            single_video(tree / path)
    with pytest.raises(MaskError, match="none of which belongs to a frame"):
        single_video(tree / "frames", tree / "masks")
    with pytest.raises(MaskError, match="does not exist"):
        single_video(tree / "frames", tree / "mask.png")


def test_real_clips():
    root = needs_shared("clips")
    assert detect_layout(root) == "folder"
    videos = open_layout("folder", root, on_problem="keep")
    assert "bedroom" in videos.unannotated
    for clip in videos:
        if clip.annotations:
            assert all(name in frame_names(clip) for name in clip.annotations)
            first = clip.annotations[min(clip.annotations)]
            with Image.open(first) as image:
                assert (clip.mask_kind == "binary") == (image.mode == "L"), clip.name
    assert set(videos.first_annotations("crowd-44obj")) == set(range(1, 45))
    assert videos.first_annotations("car-shadow") == {1: 0}
    judo, caps = videos.first_annotations("judo"), videos.first_annotations("caps")
    assert set(judo) == {1, 2, 3, 4}
    assert max(judo.values()) > 0  # ids enter in mid-clip
    assert set(caps) == {1, 2}


def test_real_masks_in_another_folder():
    clip = open_folder(needs_shared("clips", "bmx-trees"), annotations="Annotations_2017").clip("bmx-trees")
    assert list(clip.annotations) == ["00000"]
    assert clip.mask_kind == "labels"
