from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vos_core.data.layout import detect_layout, open_layout
from vos_core.errors import LayoutError, UsageError


def test_flat_root_in_list_order(davis):
    videos = open_layout("davis", davis.root)
    assert videos.name == "davis-2017-val"
    assert videos.names == ("judo", "dog")
    clip = videos.clip("judo")
    assert [path.name for path in clip.frames] == ["00000.jpg", "00001.jpg", "00002.jpg", "00003.jpg"]
    assert list(clip.annotations) == ["00000", "00001", "00002", "00003"]
    assert (clip.prompt_rule, clip.mask_kind, clip.void, clip.outputs) == ("first_frame", "labels", 255, None)
    assert videos.scored("judo") == ("00001", "00002")
    assert detect_layout(davis.root) == "davis"


def test_split_roots(tree):
    for part, split, name in (("trainval", "val", "dog"), ("test-dev", "test-dev", "aerobatics")):
        tree.frames(f"2017/{part}/JPEGImages/480p/{name}", ("00000", "00001"))
        tree.masks(
            f"2017/{part}/Annotations/480p/{name}", {"00000": (1,)} if split == "test-dev" else {"00000": (1,), "00001": (1,)}
        )
        tree.text(f"2017/{part}/ImageSets/2017/{split}.txt", name)
    assert open_layout("davis", tree.root, "val").names == ("dog",)
    assert open_layout("davis", tree.root, "test-dev").names == ("aerobatics",)
    assert open_layout("davis", tree / "2017", "test-dev").names == ("aerobatics",)
    assert open_layout("davis", tree / "2017/trainval", "val").names == ("dog",)
    assert detect_layout(tree.root) == detect_layout(tree / "2017") == "davis"


@pytest.mark.parametrize("form", ["names", "frames"])
def test_2016_lists(tree, form):
    tree.frames("JPEGImages/480p/cow", ("00000", "00001", "00002"))
    tree.masks("Annotations/480p/cow", dict.fromkeys(("00000", "00001", "00002"), (255,)), mode="L")
    if form == "names":
        tree.text("ImageSets/2016/val.txt", "cow")
    else:
        tree.text(
            "ImageSets/480p/val.txt",
            *(f"/JPEGImages/480p/cow/{n}.jpg /Annotations/480p/cow/{n}.png" for n in ("00000", "00001", "00002")),
        )
    videos = open_layout("davis", tree.root, year=2016)
    clip = videos.clip("cow")
    assert (clip.mask_kind, clip.binary_output, clip.void) == ("binary", True, None)
    assert videos.first_annotations("cow") == {1: 0}


def test_listed_frame_that_is_missing_is_named(tree):
    tree.frames("JPEGImages/480p/cow", ("00000",)).masks("Annotations/480p/cow", {"00000": (255,)}, mode="L")
    tree.text(
        "ImageSets/480p/val.txt", *(f"/JPEGImages/480p/cow/{n}.jpg /Annotations/480p/cow/{n}.png" for n in ("00000", "00001"))
    )
    with pytest.raises(LayoutError, match="frame 00001 is in the list of split val but not on disk"):
        open_layout("davis", tree.root, year=2016)


def test_full_resolution_and_unsupervised(davis):
    davis.frames("JPEGImages/Full-Resolution/dog", ("00000",)).masks("Annotations/Full-Resolution/dog", {"00000": (1,)})
    assert open_layout("davis", davis.root, "train", resolution="Full-Resolution").names == ("dog",)
    davis.masks("Annotations_unsupervised/480p/dog", dict.fromkeys(("00000", "00001", "00002", "00003"), (1, 255)))
    videos = open_layout("davis", davis.root, "train", task="unsupervised")
    assert videos.scored("dog") == ("00000", "00001", "00002", "00003")
    assert videos.first_annotations("dog") == {1: 0}
    davis.frames("JPEGImages/480p/secret", ("00000",)).text("ImageSets/2019/test-dev.txt", "secret")
    assert open_layout("davis", davis.root, "test-dev", task="unsupervised").unannotated == ("secret",)


def test_trainval_joins_the_lists(davis):
    assert open_layout("davis", davis.root, "trainval").names == ("dog", "judo")


def test_missing_sequence_resolution_and_list(davis):
    davis.text("ImageSets/2017/val.txt", "judo", "gone")
    with pytest.raises(LayoutError, match="frame folder of clip 'gone' does not exist"):
        open_layout("davis", davis.root)
    with pytest.raises(LayoutError, match="no Full-Resolution frames"):
        open_layout("davis", davis.root, resolution="Full-Resolution")
    (davis / "ImageSets/2017/val.txt").unlink()
    kept = open_layout("davis", davis.root, on_problem="keep")
    assert kept.names == ("dog", "judo")
    assert [problem.found for problem in kept.problems if problem.level == "error"] == ["the list of sequences is missing"]


@pytest.mark.parametrize(
    "options", [{"split": "valid"}, {"year": 2018}, {"year": 2016, "split": "test-dev"}, {"task": "x"}, {"colour": 1}]
)
def test_wrong_use(davis, options):
    with pytest.raises(UsageError):
        open_layout("davis", davis.root, options.pop("split", None), **options)


def test_davis_c(davis, tmp_path: Path):
    noisy = tmp_path / "DAVIS-C"
    for strength in ("low", "high"):
        for name in ("judo", "dog"):
            for i in range(4):
                path = noisy / strength / "contrast" / name / f"{i:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (24, 16), (i, 0, 0)).save(path)
    assert detect_layout(noisy) == "davis-c"
    both = open_layout("davis-c", noisy, davis_root=davis.root)
    assert both.names == ("low/contrast/judo", "low/contrast/dog", "high/contrast/judo", "high/contrast/dog")
    one = open_layout("davis-c", noisy / "low" / "contrast", davis_root=davis.root)
    clip = one.clip("judo")
    assert clip.frames[0] == noisy / "low/contrast/judo/00000.jpg"
    assert clip.annotations["00000"] == davis / "Annotations/480p/judo/00000.png"
    assert open_layout("davis-c", noisy, strength="low").unannotated == ("dog", "judo")
    (noisy / "low/contrast/judo/00002.jpg").unlink()
    with pytest.raises(LayoutError, match="frames 00002 of DAVIS are missing"):
        open_layout("davis-c", noisy, strength="low", davis_root=davis.root)
    with pytest.raises(UsageError, match="no corruption 'fog'"):
        open_layout("davis-c", noisy, corruption="fog")
    with pytest.raises(LayoutError, match="no frames of any strength/pixelate"):
        open_layout("davis-c", noisy, corruption="pixelate")
