"""Conversions against their rules, written out again with index arithmetic."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from vos_core.data.convert import Converted, davis_480_880, lvos_convert, short_side, ytvos_480p
from vos_core.data.layout import open_layout
from vos_core.errors import FrameError, LayoutError, MaskError, UsageError
from vos_core.testing import GOLDENS, assert_within, golden_cases, needs_shared


def nearest(array, *, height, width):
    rows = ((np.arange(height) + 0.5) * array.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * array.shape[1] / width).astype(int)
    return array[rows[:, None], columns]


def test_davis_480_880(davis, tmp_path):
    out = tmp_path / "out"
    done = davis_480_880(davis.root, out, height=32, width=32, processes=2)  # a size where no source index is a tie
    assert done == Converted(written=18)  # two clips of four frames and masks, two lists
    source, target = davis / "Annotations/480p/judo/00001.png", out / "Annotations/480p/judo/00001.png"
    with Image.open(source) as before, Image.open(target) as after:
        assert after.mode == "P"
        assert after.getpalette("RGB") == before.getpalette("RGB")
        np.testing.assert_array_equal(np.array(after), nearest(np.array(before), height=32, width=32))
    with Image.open(davis / "JPEGImages/480p/dog/00002.jpg") as before:
        pixels = nearest(np.array(before), height=32, width=32)
    Image.fromarray(pixels).save(tmp_path / "expected.jpg")
    assert (out / "JPEGImages/480p/dog/00002.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()
    assert (out / "ImageSets/2017/val.txt").read_text() == "judo\ndog\n"
    assert open_layout("davis", out).names == ("judo", "dog")


def test_a_repeated_conversion_writes_only_what_is_missing(davis, tmp_path):
    out = tmp_path / "out"
    assert davis_480_880(davis.root, out, height=32, width=32, dry_run=True) == Converted(written=18)
    assert not out.exists()
    davis_480_880(davis.root, out, height=32, width=32)
    (out / "JPEGImages/480p/dog/00002.jpg").unlink()
    (out / "Annotations/480p/dog/00001.png").write_bytes(b"torn")
    for dry_run in (True, False):
        assert davis_480_880(davis.root, out, height=32, width=32, dry_run=dry_run) == Converted(written=2, kept=16)
    assert davis_480_880(davis.root, out, height=32, width=36).written == 16  # another size is not kept


def test_damaged_input_is_named_and_the_rest_is_done(davis, tmp_path):
    (davis / "JPEGImages/480p/dog/00001.jpg").write_bytes(b"no image")
    with pytest.raises(FrameError, match=r"dog/00001\.jpg"):
        davis_480_880(davis.root, tmp_path / "out")
    assert (tmp_path / "out/Annotations/480p/judo/00003.png").is_file()
    (davis / "JPEGImages/480p/dog/00001.jpg").unlink()
    (davis / "Annotations/480p/dog/00001.png").write_bytes(b"no image")
    with pytest.raises(MaskError, match=r"dog/00001\.png"):
        davis_480_880(davis.root, tmp_path / "out", processes=2)
    with pytest.raises(LayoutError, match="no 480p frames"):
        davis_480_880(tmp_path, tmp_path / "x")
    with pytest.raises(UsageError, match="is the source itself"):
        davis_480_880(davis.root, davis.root)


def test_ytvos_480p(youtube, tmp_path):
    out = tmp_path / "valid_480p"
    ytvos_480p(youtube / "valid", out, size=11)
    assert short_side((24, 16), 11) == (16, 11)
    with Image.open(youtube / "valid/JPEGImages/aa/00010.jpg") as before:
        before.resize((16, 11), Image.Resampling.BICUBIC).save(tmp_path / "expected.jpg")
    assert (out / "JPEGImages/aa/00010.jpg").read_bytes() == (tmp_path / "expected.jpg").read_bytes()
    with Image.open(youtube / "valid/Annotations/aa/00015.png") as before, Image.open(out / "Annotations/aa/00015.png") as after:
        np.testing.assert_array_equal(np.array(after), nearest(np.array(before), height=11, width=16))
    assert json.loads((out / "meta.json").read_text()) == json.loads((youtube / "valid/meta.json").read_text())
    assert ytvos_480p(youtube / "valid", out, size=11).written == 0
    with pytest.raises(LayoutError, match="no frames"):
        ytvos_480p(tmp_path, tmp_path / "x")


def test_lvos_convert(tree):
    tree.masks("valid/Annotations/v", {"00000001": (), "00000006": (3,), "00000011": (3, 5), "00000016": (5,)})
    done = lvos_convert(tree / "valid")
    written = sorted((tree / "valid/Annotations_convert/v").iterdir())
    assert [path.stem for path in written] == ["00000001", "00000006", "00000011"]
    assert done == Converted(written=3, kept=1)
    with Image.open(written[2]) as image, Image.open(tree / "valid/Annotations/v/00000011.png") as source:
        labels = np.array(source)
        np.testing.assert_array_equal(np.array(image), np.where(labels == 5, 5, 0))
        assert image.getpalette("RGB")[:6] == source.getpalette("RGB")[:6]
    assert lvos_convert(tree.root, processes=2) == Converted(kept=4)
    with pytest.raises(LayoutError, match="no folder Annotations"):
        lvos_convert(tree / "valid/Annotations")
    with pytest.raises(UsageError):
        lvos_convert(tree.root, output="Annotations")
    (tree / "valid/Annotations/v/00000006.png").write_bytes(b"x")
    with pytest.raises(MaskError, match=r"00000006\.png"):
        lvos_convert(tree.root, output="again")


@pytest.mark.parity
@pytest.mark.parametrize("case", golden_cases("rsp-pretrain", "davis_preprocess"))
def test_davis_preprocess_golden(case, tmp_path):
    expected = np.load(GOLDENS / "rsp-pretrain" / case["file"])
    height, width = case["size"]
    for item in case["items"]:
        clip = needs_shared("clips", item["clip"])
        frame = sorted((clip / "JPEGImages").glob("*.jpg"))[item["frame"]]
        root = tmp_path / item["key"]
        for kind, path in (("JPEGImages", frame), ("Annotations", clip / "Annotations" / f"{frame.stem}.png")):
            if kind == "Annotations" and not item["annotation"]:
                continue
            place = root / kind / "480p" / item["clip"]
            place.mkdir(parents=True)
            # A PNG frame keeps what the JPEG encoder would change after the resize that the golden holds.
            if kind == "JPEGImages":
                with Image.open(path) as image:
                    image.save(place / f"{frame.stem}.png")
            else:
                (place / path.name).symlink_to(path)
        davis_480_880(root, root / "out", height=height, width=width)
        down, across, depth = case["steps"]["img"]
        image = np.array(Image.open(root / "out/JPEGImages/480p" / item["clip"] / f"{frame.stem}.png"))
        assert_within(image[::down, ::across, ::depth], expected[f"{item['key']}/img"], case["tolerance"]["img"], label="img")
        assert_within(image.mean(), expected[f"{item['key']}/img_mean"], case["tolerance"]["img_mean"], label="img_mean")
        if item["annotation"]:
            labels = np.array(Image.open(root / "out/Annotations/480p" / item["clip"] / f"{frame.stem}.png"))
            labels = labels[:: case["steps"]["ann"][0], :: case["steps"]["ann"][1]]
            for value, mapped in item["map"].items():
                labels = np.where(labels == int(value), mapped, labels)
            assert_within(labels, expected[f"{item['key']}/ann"], case["tolerance"]["ann"], label="ann")
