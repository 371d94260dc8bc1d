from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vos_core.cli.main import main
from vos_core.io.masks import read_mask, write_mask, write_object_masks
from vos_core.io.npz import read_npz
from vos_core.io.palette import AOT_PALETTE
from vos_core.io.png import palette_of
from vos_core.io.sav_json import read_rle_json
from vos_core.testing import needs_shared


def vos(*args: object) -> Result:
    return CliRunner().invoke(main, ["mask", *map(str, args)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, name in enumerate(("frame_2", "frame_10", "frame_11")):
        labels = np.zeros((12, 17), np.uint8)
        labels[2:5, index : index + 4] = 2
        if index != 1:
            labels[6:10, 3:9] = 200
        write_mask(tmp_path / "masks" / f"{name}.png", labels)
    return tmp_path / "masks"


def same_masks(first: Path, second: Path) -> bool:
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    return all(np.array_equal(read_mask(first / name), read_mask(second / name)) for name in names)


@pytest.mark.parametrize(
    ("between", "form"),
    [("a.json", "sav"), ("a.json", "rle"), ("a.npz", "npz"), ("objects", "objects"), ("a.json", None), ("a.npz", None)],
)
def test_there_and_back(tmp_path: Path, folder: Path, between: str, form: str | None) -> None:
    there = vos("convert", folder, tmp_path / between, *(["--to", form] if form else []), "--json")
    assert there.exit_code == 0, there.output
    report = json.loads(there.stdout)
    assert (report["frames"], report["ids"], report["height"], report["width"]) == (3, [2, 200], 12, 17)
    back = vos("convert", tmp_path / between, tmp_path / "back")
    assert back.exit_code == 0, back.output
    assert "3 frames of 17x12, 2 objects" in back.stdout
    assert same_masks(folder, tmp_path / "back")


def test_list_loses_names_and_ids_only(tmp_path: Path, folder: Path) -> None:
    assert vos("convert", folder, tmp_path / "a.json", "--to", "list").exit_code == 0
    found = read_rle_json(tmp_path / "a.json")
    assert (found.frames, found.ids) == (("00000", "00001", "00002"), (1, 2))


def test_fps_reaches_the_json(tmp_path: Path, folder: Path) -> None:
    assert vos("convert", folder, tmp_path / "a.json", "--fps", "6").exit_code == 0
    assert read_rle_json(tmp_path / "a.json").fps == 6.0


def test_binary_packed_and_threshold(tmp_path: Path) -> None:
    big = Image.fromarray(np.pad(np.full((40, 40), 255, np.uint8), 13)).rotate(20)
    soft = np.array(big.resize((33, 33), Image.Resampling.BOX))
    (tmp_path / "soft").mkdir()
    Image.fromarray(soft).save(tmp_path / "soft" / "a.png")
    refused = vos("convert", tmp_path / "soft", tmp_path / "a.npz")
    assert refused.exit_code == 1
    assert "anti-aliased" in refused.output
    done = vos("convert", tmp_path / "soft", tmp_path / "a.npz", "--binary", "--threshold", 128, "--to", "packed")
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz").masks[0], soft >= 128)
    single = vos("convert", tmp_path / "soft" / "a.png", tmp_path / "hard.png", "--binary", "--threshold", 128)
    assert single.exit_code == 0, single.output
    np.testing.assert_array_equal(read_mask(tmp_path / "hard.png"), soft >= 128)


def test_overlapping_objects_keep_the_lowest_id(tmp_path: Path) -> None:
    low, high = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    low[:, 2:4], high[:, 1:5] = True, True
    write_object_masks(tmp_path / "in", "00000", {0: low, 1: high})
    write_object_masks(tmp_path / "in", "00001", {1: high})
    assert vos("convert", tmp_path / "in", tmp_path / "a.json").exit_code == 0
    assert vos("convert", tmp_path / "a.json", tmp_path / "objects", "--to", "objects").exit_code == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "objects" / "002" / "00000.png", kind="binary"), high)
    np.testing.assert_array_equal(read_mask(tmp_path / "objects" / "001" / "00000.png", kind="binary"), low)
    assert vos("convert", tmp_path / "a.json", tmp_path / "png", "--palette", "aot").exit_code == 0
    np.testing.assert_array_equal(read_mask(tmp_path / "png" / "00000.png"), np.where(low, 1, np.where(high, 2, 0)))
    np.testing.assert_array_equal(palette_of(tmp_path / "png" / "00001.png"), AOT_PALETTE)


def test_other_sizes(tmp_path: Path, folder: Path) -> None:
    write_mask(folder / "frame_12.png", np.ones((24, 34), np.uint8))
    refused = vos("convert", folder, tmp_path / "a.npz")
    assert refused.exit_code == 1
    assert "frame_12.png is 34x24" in refused.output
    with pytest.warns(UserWarning, match=r"frame_12\.png"):
        assert vos("convert", folder, tmp_path / "a.npz", "--resize").exit_code == 0
    assert read_npz(tmp_path / "a.npz").masks.shape == (4, 12, 17)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["nowhere", "a.npz"], 1, "nowhere"), (["empty", "a.npz"], 1, "holds no masks"),
        (["masks", "a.npz", "--to", "sav"], 2, "sav"),
        (["masks", "a.json", "--to", "png"], 2, "folder"), (["masks", "a", "--to", "npz"], 2, r".npz"),
        (["masks", "a.png"], 2, "3 masks"), (["masks", "a.npz", "--threshold", "9"], 2, "--binary"),
        (["masks", "a.npz", "--to", "packed"], 1, "one object"), (["blank", "a.json"], 1, "no object"),
    ],
)  # fmt: skip
def test_faults(tmp_path: Path, folder: Path, args: list[str], code: int, message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_mask(tmp_path / "blank" / "a.png", np.zeros((3, 3), np.uint8))
    result = vos("convert", tmp_path / args[0], tmp_path / args[1], *args[2:])
    assert result.exit_code == code, result.output
    assert message in result.output
    assert not (tmp_path / args[1]).is_file()


def test_the_form_of_the_source_can_be_given(tmp_path: Path, folder: Path) -> None:
    assert vos("convert", folder, tmp_path / "a.json").exit_code == 0
    (tmp_path / "a.json").rename(tmp_path / "a.masks")
    assert vos("convert", tmp_path / "a.masks", tmp_path / "b.npz").exit_code == 1
    assert vos("convert", tmp_path / "a.masks", tmp_path / "b.npz", "--from", "sav").exit_code == 0
    (tmp_path / "b.npz").rename(tmp_path / "b")
    assert vos("convert", tmp_path / "b", tmp_path / "back", "--from", "npz").exit_code == 0
    assert same_masks(folder, tmp_path / "back")
    write_mask(tmp_path / "back" / "001" / "x.png", np.eye(5, dtype=bool), binary=True)
    assert vos("convert", tmp_path / "back", tmp_path / "c.npz", "--from", "objects").exit_code == 0
    assert read_npz(tmp_path / "c.npz").frames == ("x",)
    wrong = vos("convert", tmp_path / "back", tmp_path / "d.npz", "--from", "sav")
    assert (wrong.exit_code, "cannot be read as sav" in wrong.output) == (2, True)
    assert vos("convert", tmp_path / "b", tmp_path / "d.npz", "--from", "objects").exit_code == 2


def test_a_frame_without_objects_is_kept_in_every_form(tmp_path: Path, folder: Path) -> None:
    write_mask(folder / "frame_3.png", np.zeros((12, 17), np.uint8))
    for index, (name, form) in enumerate((("o", "objects"), ("a.json", "sav"), ("b.json", "rle"), ("a.npz", "npz"))):
        assert vos("convert", folder, tmp_path / name, "--to", form).exit_code == 0
        assert vos("convert", tmp_path / name, tmp_path / f"back{index}").exit_code == 0
        assert same_masks(folder, tmp_path / f"back{index}")
    assert len(list((tmp_path / "o" / "200").iterdir())) == 4


def test_every_pair_of_forms(tmp_path: Path, folder: Path) -> None:
    places = {"png": "p", "objects": "o", "sav": "s.json", "rle": "r.json", "npz": "n.npz"}
    for form, place in places.items():
        assert vos("convert", folder, tmp_path / place, "--to", form).exit_code == 0
    for start, place in places.items():
        for end, suffix in places.items():
            target = tmp_path / f"{start}-{end}-{suffix}"
            assert vos("convert", tmp_path / place, target, "--from", start, "--to", end).exit_code == 0
            assert vos("convert", target, tmp_path / f"{start}-{end}-back").exit_code == 0
            assert same_masks(folder, tmp_path / f"{start}-{end}-back"), (start, end)


@pytest.mark.parametrize("args", [["a.json", "b.npz", "--binary"], ["a.json", "b", "--resize"], ["masks", "b.npz", "--fps", "6"]])
def test_options_that_a_form_does_not_have_are_refused(tmp_path: Path, folder: Path, args: list[str]) -> None:
    assert vos("convert", folder, tmp_path / "a.json").exit_code == 0
    result = vos("convert", tmp_path / args[0], tmp_path / args[1], *args[2:])
    assert result.exit_code == 2, result.output
    assert args[2] in result.output


def test_help_says_what_it_does_and_ends_with_an_example() -> None:
    for args in (["--help"], ["convert", "--help"]):
        text = vos(*args).stdout
        assert "Convert" in text
        assert "Example: vos mask convert" in text


def test_real_sav_file_and_back(tmp_path: Path) -> None:
    path = needs_shared("goldens", "vos-core", "sav_000001_manual.json")
    assert vos("convert", path, tmp_path / "a.json").exit_code == 0
    first, second = read_rle_json(path), read_rle_json(tmp_path / "a.json")
    assert (first.masks, first.frames, first.fps) == (second.masks, second.frames, second.fps)
    assert second.ids == (1, 2, 3, 4, 5)
