from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from vos_core.errors import MaskError, OutputError
from vos_core.io.masks import read_clip_mask, read_mask, read_object_masks, write_mask, write_object_masks
from vos_core.io.palette import AOT_PALETTE, DAVIS_PALETTE
from vos_core.io.png import palette_of
from vos_core.testing import needs_shared
from vos_core.types import Clip

ONE_FOLDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def disk(size: int = 64, radius: int = 20) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (y - size // 2) ** 2 + (x - size // 2) ** 2 <= radius**2


@ONE_FOLDER
@given(hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=2, max_side=25), elements=st.integers(0, 65535)))
def test_round_trip_of_any_ids(tmp_path: Path, labels: np.ndarray) -> None:
    write_mask(tmp_path / "a.png", labels)
    found = read_mask(tmp_path / "a.png")
    np.testing.assert_array_equal(found, labels)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), labels)
    assert found.dtype == (np.uint16 if labels.max() > 255 else np.uint8)


@ONE_FOLDER
@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=25)), st.integers(0, 9))
def test_binary_round_trip(tmp_path: Path, mask: np.ndarray, level: int) -> None:
    write_mask(tmp_path / "a.png", mask, binary=True, compress_level=level)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", kind="binary"), mask)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED), mask * 255)


def test_written_palette(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", disk(), palette=AOT_PALETTE)
    write_mask(tmp_path / "b.png", disk().astype(np.int64))
    np.testing.assert_array_equal(palette_of(tmp_path / "a.png"), AOT_PALETTE)
    np.testing.assert_array_equal(palette_of(tmp_path / "b.png"), DAVIS_PALETTE)


@pytest.mark.parametrize("wrong", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.full((2, 2), -1), np.full((2, 2), 65536)])
def test_write_refuses_what_is_no_label_map(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(MaskError, match=r"a\.png"):
        write_mask(tmp_path / "a.png", wrong)
    assert not list(tmp_path.iterdir())


def test_write_below_a_file_fails_clearly(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        write_mask(tmp_path / "file" / "a.png", disk())


def test_binary_of_several_ids_is_any_object(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 2], [3, 0, 9]], np.uint8)
    write_mask(tmp_path / "a.png", labels)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", kind="binary"), labels > 0)


def test_grey_labels_are_raw_values(tmp_path: Path) -> None:
    labels = disk().astype(np.uint8) * 255
    labels[:5] = 7
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("shrink", [2, 3, 8])
@pytest.mark.parametrize("kind", ["labels", "binary"])
def test_anti_aliased_mask_is_explained(tmp_path: Path, shrink: int, kind: str) -> None:
    big = Image.fromarray(disk(64 * shrink, 20 * shrink).astype(np.uint8) * 255)
    soft = np.array(big.resize((64, 64), Image.Resampling.BOX))
    Image.fromarray(soft).save(tmp_path / "soft.png")
    with pytest.raises(MaskError, match=r"soft\.png .*anti-aliased"):
        read_mask(tmp_path / "soft.png", kind=kind)  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_mask(tmp_path / "soft.png", kind="binary", threshold=128), soft >= 128)


def test_many_real_objects_in_grey_are_no_soft_edge(tmp_path: Path) -> None:
    labels = np.kron(np.arange(2, 146).reshape(12, 12), np.ones((4, 4), int)).astype(np.uint8)
    labels[-1] = 255
    Image.fromarray(labels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("palette", [None, DAVIS_PALETTE, AOT_PALETTE])
def test_colours_of_the_palette_are_labels(tmp_path: Path, mode: str, palette: np.ndarray | None) -> None:
    labels = np.arange(22, dtype=np.uint8).reshape(2, 11)
    if palette is AOT_PALETTE:
        labels[labels == 7] = 0
    table = DAVIS_PALETTE if palette is None else palette
    Image.fromarray(table[labels]).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", palette=palette), labels)


def test_colour_twice_in_the_palette_is_refused(tmp_path: Path) -> None:
    Image.fromarray(AOT_PALETTE[np.full((2, 2), 7)]).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"\(128, 128, 128\) is more than one entry"):
        read_mask(tmp_path / "a.png", palette=AOT_PALETTE)


def test_foreign_colours_are_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "a.png")
    with pytest.raises(MaskError, match=r"a\.png .*\(1, 2, 3\).*Save it as a palette PNG"):
        read_mask(tmp_path / "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "b.png")
    with pytest.raises(MaskError, match="anti-aliased edges or JPEG noise"):
        read_mask(tmp_path / "b.png")
    clear = np.zeros((4, 4, 4), np.uint8)
    Image.fromarray(clear).save(tmp_path / "c.png")
    with pytest.raises(MaskError, match="transparent"):
        read_mask(tmp_path / "c.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_black_and_white_picture_is_a_binary_mask(tmp_path: Path, mode: str) -> None:
    Image.fromarray(disk().astype(np.uint8) * 255).convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", kind="binary"), disk())


def test_wrong_size(tmp_path: Path) -> None:
    write_mask(tmp_path / "a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
    with pytest.raises(MaskError, match=r"a\.png is 4x3\. Expected 8x6"):
        read_mask(tmp_path / "a.png", size=(6, 8))
    with pytest.warns(UserWarning, match="resized to 8x6"):
        found = read_mask(tmp_path / "a.png", size=(6, 8), on_size="resize")
    np.testing.assert_array_equal(found, np.kron(np.arange(12).reshape(3, 4), np.ones((2, 2), int)))


def test_object_folders(tmp_path: Path) -> None:
    masks = {1: disk(32, 8), 12: np.roll(disk(32, 8), 5, axis=1)}
    write_object_masks(tmp_path, "00003", masks)
    write_object_masks(tmp_path, "00004", {12: masks[12]}, foreground=1)
    found = read_object_masks(tmp_path, "00003", size=(32, 32))
    assert sorted(found) == [1, 12]
    for key, mask in masks.items():
        np.testing.assert_array_equal(found[key], mask)
    assert (tmp_path / "012" / "00003.png").is_file()
    assert list(read_object_masks(tmp_path, "00004")) == [12]
    with pytest.raises(MaskError, match="00009"):
        read_object_masks(tmp_path, "00009")
    with pytest.raises(MaskError, match="does not exist"):
        read_object_masks(tmp_path / "nowhere", "00003")


def test_object_folders_with_faults(tmp_path: Path) -> None:
    write_object_masks(tmp_path, "a", {1: disk(16, 4), 2: disk(18, 4)})
    with pytest.raises(MaskError, match="differ in size"):
        read_object_masks(tmp_path, "a")
    write_mask(tmp_path / "dog" / "a.png", disk(16, 4))
    with pytest.raises(MaskError, match="dog"):
        read_object_masks(tmp_path, "a")


def test_clip_masks(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 255], [5, 200, 255]], np.uint8)
    write_mask(tmp_path / "a.png", labels)
    clip = Clip("c", annotations={"a": tmp_path / "a.png"})
    assert read_clip_mask(clip, "a", (2, 3)).tolist() == [[0, 1, 0], [5, 200, 0]]
    assert read_clip_mask(Clip("c", annotations={"a": tmp_path / "a.png"}, void=None), "a").tolist() == labels.tolist()
    binary = Clip("c", annotations={"a": tmp_path / "a.png"}, mask_kind="binary")
    assert read_clip_mask(binary, "a").tolist() == (labels > 0).tolist()
    with pytest.raises(MaskError, match="no mask for frame b"):
        read_clip_mask(clip, "b")
    with pytest.raises(MaskError, match=r"a\.png is 3x2"):
        read_clip_mask(clip, "a", (5, 5))


def test_clip_objects_that_count_from_zero_become_ids_from_one(tmp_path: Path) -> None:
    write_object_masks(tmp_path, "a", {0: disk(16, 4), 1: disk(16, 6)})
    write_object_masks(tmp_path, "b", {1: disk(16, 6)})
    clip = Clip("c", annotations={"a": tmp_path, "b": tmp_path}, mask_kind="objects")
    found = read_clip_mask(clip, "a")
    np.testing.assert_array_equal(found, np.where(disk(16, 4), 1, np.where(disk(16, 6), 2, 0)))
    assert set(np.unique(read_clip_mask(clip, "b"))) == {0, 2}


def test_real_masks() -> None:
    root = needs_shared("clips")
    assert read_mask(root / "crowd-44obj" / "Annotations" / "00002058.png").max() == 44
    assert set(np.unique(read_mask(root / "judo" / "Annotations" / "00000.png"))) <= {0, 1, 2, 3, 4}
    assert set(np.unique(read_mask(root / "dog" / "Annotations" / "00000.png", kind="binary"))) == {0, 1}
    assert read_mask(root / "caps" / "Annotations" / "frame_000000.png").shape == (853, 480)
