"""Kinetics, static images, iThor, CO3D and JHMDB: the lists that training and probes read."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
from scipy.io import savemat

from vos_core.data import jhmdb, kinetics, static
from vos_core.data.layout import detect_layout, open_layout
from vos_core.errors import LayoutError, UsageError


def test_kinetics_by_folder_and_by_list(tree):
    for name in ("train2/archery/b.mp4", "train2/archery/a.mp4", "train2/bowling/c.mp4"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(b"x")
    found = kinetics.list_videos(tree.root)
    assert [(v.class_index, v.class_name, v.path.name) for v in found] == [
        (0, "archery", "a.mp4"), (0, "archery", "b.mp4"), (1, "bowling", "c.mp4"),
    ]  # fmt: skip
    (tree / "labels").mkdir()
    (tree / "labels/label_1.0.pickle").write_bytes(pickle.dumps([(7, "train2/bowling/c.mp4"), (0, "archery/a.mp4")]))
    found = kinetics.list_videos(tree.root)
    assert [(v.class_index, v.path) for v in found] == [(7, tree / "train2/bowling/c.mp4"), (0, tree / "train2/archery/a.mp4")]
    assert open_layout("kinetics", tree.root).names == ("bowling/c", "archery/a")
    assert detect_layout(tree.root) == "kinetics"


def test_kinetics_list_runs_no_code(tree):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tree / "owned"),)

    (tree / "labels").mkdir(parents=True)
    (tree / "labels/label_full_1.0.pickle").write_bytes(pickle.dumps([Evil()]))
    with pytest.raises(LayoutError, match="cannot be read"):
        kinetics.list_videos(tree.root)
    assert not (tree / "owned").exists()


def test_static_stcn(tree):
    tree.frames("fss/cat", ("1", "2")).masks("fss/cat", {"1": (255,), "2": (255,)}, mode="L")
    tree.frames("BIG_small", ("x",)).masks("BIG_small", {"x": (255,)}, mode="L")
    found = static.list_images(tree.root)
    assert [(i.name, i.repeat, i.mask_kind) for i in found] == [
        ("fss/cat/1", 1, "binary"), ("fss/cat/2", 1, "binary"), ("BIG_small/x", 5, "binary"),
    ]  # fmt: skip
    assert found[0].mask == tree / "fss/cat/1.png"
    assert detect_layout(tree.root) == "static"
    (tree / "fss/cat/2.png").unlink()
    with pytest.raises(LayoutError, match="images without a mask: 2"):
        open_layout("static", tree.root)


def test_static_aot_skips_a_set_of_unequal_counts(tree):
    tree.frames("JPEGImages/COCO", ("a", "b")).masks("Annotations/COCO", {"a": (1,), "b": (1, 2)})
    tree.frames("JPEGImages/ECSSD", ("c", "d")).masks("Annotations/ECSSD", {"c": (1,)})
    assert [item.name for item in static.list_images(tree.root)] == ["COCO/a", "COCO/b"]
    kept = open_layout("static", tree.root, on_problem="keep")
    assert kept.first_annotations("COCO/b") == {1: 0, 2: 0}
    assert [p.found for p in kept.problems] == ["2 images but 1 masks, so the set is skipped"]
    assert detect_layout(tree.root) == "static"
    with pytest.raises(LayoutError, match="no set of still images"):
        static.list_images(tree / "JPEGImages")


def test_ithor_and_co3d(tree):
    tree.frames("ithor/Mug|1/imgs", ("0", "1"), suffix=".png").masks("ithor/Mug|1/masks", {"0": (255,), "1": (255,)}, mode="L")
    videos = open_layout("ithor", tree / "ithor")
    assert videos.names == ("Mug|1",)
    assert videos.clip("Mug|1").mask_kind == "binary"
    assert open_layout("ithor", tree / "ithor/Mug|1").names == ("Mug|1",)
    assert detect_layout(tree / "ithor") == "ithor"
    tree.frames("co3d/car/1_2/images", ("frame000001",)).masks("co3d/car/1_2/masks", {"frame000001": (9,)}, mode="L")
    (tree / "co3d/car/1_2/depths").mkdir()
    assert open_layout("co3d", tree / "co3d").names == ("car/1_2",)
    assert open_layout("co3d", tree / "co3d", "car").names == ("car/1_2",)
    assert detect_layout(tree / "co3d") == "co3d"
    with pytest.raises(LayoutError, match="no category 'cup'"):
        open_layout("co3d", tree / "co3d", "cup")
    with pytest.raises(UsageError):
        open_layout("ithor", tree / "ithor", "val")


@pytest.fixture
def poses(tree):
    for name in ("one", "two"):
        tree.frames(f"Rename_Images/catch/{name}", ("00001", "00002", "00010"), suffix=".png")
        (tree / f"joint_positions/catch/{name}").mkdir(parents=True)
        savemat(tree / f"joint_positions/catch/{name}/joint_positions.mat", {"pos_img": np.arange(90.0).reshape(2, 15, 3)})
    return tree.text("splits/catch_test_split1.txt", "one.avi 2", "two.avi 1")


def test_jhmdb(poses):
    test = jhmdb.list_clips(poses.root)
    assert [clip.name for clip in test] == ["catch/one"]
    assert [path.stem for path in test[0].frames] == ["00001", "00002", "00010"]
    assert [clip.name for clip in jhmdb.list_clips(poses.root, "train")] == ["catch/two"]
    joints = jhmdb.read_joints(test[0].joints)
    assert joints.shape == (2, 15, 3)
    assert joints[1, 0, 2] == 47.0
    assert open_layout("jhmdb", poses.root).names == ("catch/one",)
    assert detect_layout(poses.root) == "jhmdb"


def test_jhmdb_faults(poses):
    path = poses / "joint_positions/catch/one/joint_positions.mat"
    savemat(path, {"pos_img": np.zeros((2, 14, 3))})
    with pytest.raises(LayoutError, match=r"shape \(2, 14, 3\)"):
        jhmdb.read_joints(path)
    path.write_bytes(b"no matlab file")
    with pytest.raises(LayoutError, match="cannot be read"):
        jhmdb.read_joints(path)
    path.unlink()
    with pytest.raises(LayoutError, match="joint positions of clip catch/one are missing"):
        open_layout("jhmdb", poses.root)
    with pytest.raises(LayoutError, match="_test_split3"):
        jhmdb.list_clips(poses.root, fold=3)
