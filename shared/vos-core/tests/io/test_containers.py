from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vos_core.errors import MaskError
from vos_core.io.npz import read_npz, write_npz
from vos_core.io.rle import decode, encode
from vos_core.io.sav_json import RleClip, read_rle_json, write_rle_json
from vos_core.testing import needs_shared

SAV_KEYS = [
    "video_id",
    "video_duration",
    "video_frame_count",
    "video_height",
    "video_width",
    "video_resolution",
    "video_environment",
    "video_split",
    "masklet",
    "masklet_id",
    "masklet_num",
    "masklet_size_rel",
    "masklet_size_abs",
    "masklet_size_bucket",
    "masklet_visibility_changes",
    "masklet_first_appeared_frame",
    "masklet_frame_count",
    "masklet_edited_frame_count",
    "masklet_type",
    "masklet_stability_score",
]


def a_clip() -> RleClip:
    first, second = np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    first[1:3, 2:5], second[2:6, 4:7] = True, True
    rows = ((encode(first), None), (None, encode(second)), (encode(first), encode(second)))
    return RleClip((6, 8), ("00000", "00004", "00008"), (0, 1), rows, 6.0)


@pytest.mark.parametrize("form", ["sav", "masks"])
def test_json_round_trip(tmp_path: Path, form: Any) -> None:
    clip = a_clip()
    write_rle_json(tmp_path / "a.json", clip, form=form)
    found = read_rle_json(tmp_path / "a.json")
    assert (found.size, found.frames, found.ids, found.masks, found.fps) == (clip.size, clip.frames, clip.ids, clip.masks, 6.0)
    assert found.label_ids() == (1, 2)


def test_bare_lists(tmp_path: Path) -> None:
    write_rle_json(tmp_path / "a.json", a_clip(), form="list")
    found = read_rle_json(tmp_path / "a.json")
    assert (found.ids, found.frames, found.fps) == ((1, 2), ("00000", "00001", "00002"), None)
    (tmp_path / "b.json").write_text(json.dumps([row[0] for row in a_clip().masks]))
    single = read_rle_json(tmp_path / "b.json")
    assert single.ids == (1,)
    assert [row[0] is None for row in single.masks] == [False, True, False]


def test_sav_keys_and_values_equal_the_example(tmp_path: Path) -> None:
    path = needs_shared("goldens", "vos-core", "sav_000001_manual.json")
    example = json.loads(path.read_text())
    clip = read_rle_json(path)
    assert clip.frames[:2] == ("00000", "00004")
    assert clip.fps == 6.0
    write_rle_json(tmp_path / "a.json", clip)
    written = json.loads((tmp_path / "a.json").read_text())
    assert set(SAV_KEYS) <= set(written)
    assert set(SAV_KEYS) == set(example)
    for key in SAV_KEYS:
        if key == "masklet_first_appeared_frame":
            assert written[key] == example[key]
        elif isinstance(example[key], list) and isinstance(example[key][0], float):
            np.testing.assert_allclose(written[key], example[key], rtol=0, atol=1e-9)
        else:
            assert written[key] == example[key], key


def test_sam_1b(tmp_path: Path) -> None:
    code = encode(np.eye(4))
    rows = [{"segmentation": code, "area": 4, "uncertain_iou": 0.9}, {"segmentation": encode(np.ones((4, 4))), "area": 16}]
    value = {"image": {"file_name": "sa_7.jpg"}, "annotations": rows}
    (tmp_path / "a.json").write_text(json.dumps(value))
    found = read_rle_json(tmp_path / "a.json")
    assert (found.frames, found.ids, found.size) == (("sa_7",), (1, 2), (4, 4))
    assert found.meta["annotations"][0] == {"area": 4, "uncertain_iou": 0.9}
    first = found.masks[0][0]
    assert first is not None
    np.testing.assert_array_equal(decode(first), np.eye(4))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "3", "{}", "[]", '{"masks": []}', '{"masklet": 5}', '{"annotations": [{}]}', "[[null]]",
        '[[{"size": [2, 2], "counts": "zz"}]]', '[[{"size": [1, 1], "counts": "1"}], []]',
        '[[{"size": [1, 1], "counts": "1"}], [{"size": [1, 2], "counts": "2"}]]',
        '{"masks": [[{"size": [1, 1], "counts": "1"}]], "ids": [1, 2]}',
        '{"masks": [[{"size": [1, 1], "counts": "1"}]], "ids": 3}',
    ],
)  # fmt: skip
def test_json_faults_name_the_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(MaskError, match=r"bad\.json"):
        read_rle_json(tmp_path / "bad.json")


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match=r"no\.json"):
        read_rle_json(tmp_path / "no.json")
    with pytest.raises(MaskError, match=r"no\.npz"):
        read_npz(tmp_path / "no.npz")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 19)] * 3), st.sampled_from([1, 7, 900]))
def test_npz_round_trip(tmp_path: Path, seed: int, shape: tuple[int, int, int], highest: int) -> None:
    masks = np.random.default_rng(seed).integers(0, highest + 1, shape)
    names = [f"frame_{index:03d}" for index in range(shape[0])]
    write_npz(tmp_path / "a.npz", masks, frames=names, ids=(1, highest, 1000))
    found = read_npz(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.masks, masks)
    assert found.frames == tuple(names)
    assert found.ids == tuple(sorted((1, highest, 1000)))
    one = np.where(masks > 0, highest, 0)
    write_npz(tmp_path / "b.npz", one, frames=names, form="packed")
    packed = read_npz(tmp_path / "b.npz")
    np.testing.assert_array_equal(packed.masks, one)
    with np.load(tmp_path / "b.npz") as file:
        assert file["packed"].shape == (*shape[:2], (shape[2] + 7) // 8)
        assert file["shape"].tolist() == list(shape)


def test_npz_of_other_tools(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", masks=np.array([[[0, 4]]], np.uint8))
    found = read_npz(tmp_path / "a.npz")
    assert (found.frames, found.ids) == (("00000",), (4,))


def test_npz_faults(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="one object"):
        write_npz(tmp_path / "a.npz", np.array([[[1, 2]]]), frames=["a"], form="packed")
    with pytest.raises(MaskError, match="names"):
        write_npz(tmp_path / "a.npz", np.zeros((2, 1, 1), int), frames=["a"])
    with pytest.raises(MaskError, match="-1"):
        write_npz(tmp_path / "a.npz", np.full((1, 1, 1), -1), frames=["a"])
    assert not list(tmp_path.iterdir())
    faults: dict[str, dict[str, Any]] = {
        "other": {"x": np.zeros(3)}, "flat": {"masks": np.zeros((3, 3), np.uint8)}, "real": {"masks": np.zeros((1, 3, 3))},
        "short": {"masks": np.zeros((2, 3, 3), np.uint8), "frames": np.array(["a"])},
        "packed": {"packed": np.zeros((1, 3, 3), np.uint8), "shape": np.array([1, 3, 99])},
        "pickle": {"masks": np.array([[[{}]]], object)},
    }  # fmt: skip
    for name, arrays in faults.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        with pytest.raises(MaskError, match=rf"{name}\.npz"):
            read_npz(tmp_path / f"{name}.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "flat.npz").read_bytes()[:50])
    with pytest.raises(MaskError, match=r"cut\.npz"):
        read_npz(tmp_path / "cut.npz")
