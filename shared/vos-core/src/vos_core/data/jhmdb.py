"""JHMDB: clips with 15 joint positions a frame, for pose propagation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, files, first_folder, listed_clip, read_lines, subfolders
from vos_core.errors import LayoutError
from vos_core.types import Clip

SPLITS = ("train", "test")
JOINTS = 15
_FLAGS = {"train": "1", "test": "2"}


@dataclass(frozen=True, slots=True)
class PoseClip:
    """One clip `<class>/<clip>`: frames in number order and the file of its joint positions."""

    name: str
    frames: tuple[Path, ...]
    joints: Path


def detect(root: Path) -> bool:
    """Return whether `root` has frames and joint positions."""
    return (root / "Rename_Images").is_dir() and (root / "joint_positions").is_dir()


def list_clips(root: Path, split: str = "test", *, fold: int = 1, findings: Findings | None = None) -> tuple[PoseClip, ...]:
    """Return the clips that `splits/<class>_test_split<fold>.txt` puts into `split`.

    Args:
        root: holds `Rename_Images`, `joint_positions`, `splits`.
        split: `test` (flag 2 in the files) or `train` (flag 1).
        fold: 1, 2 or 3.
        findings: receives missing frames and joint files; such clips are left out.

    Raises:
        LayoutError: the folders or split files are absent.
    """
    findings = Findings() if findings is None else findings
    split = choose_split(split, SPLITS, layout="jhmdb", default="test")
    first_folder([root / "Rename_Images"], root=root, what="frames")
    lists = files(root / "splits", (".txt",))
    lists = [path for path in lists if path.stem.endswith(f"_test_split{fold}")]
    if not lists:
        raise LayoutError(f"{root / 'splits'} has no file <class>_test_split{fold}.txt", fix="Copy splits from the data set")
    clips = []
    for path in lists:
        action = path.stem.removesuffix(f"_test_split{fold}")
        for line in read_lines(path):
            name, _, flag = line.partition(" ")
            if flag.strip() != _FLAGS[split]:
                continue
            name = f"{action}/{Path(name).stem if name.endswith('.avi') else name}"
            listed = listed_clip(name, root / "Rename_Images" / name, None, findings, annotated="none", order="number")
            joints = root / "joint_positions" / name / "joint_positions.mat"
            if not joints.is_file():
                findings.error(joints, f"joint positions of clip {name} are missing", "Copy them from the data set")
            elif listed is not None:
                clips.append(PoseClip(name, listed.frames, joints))
    return tuple(clips)


def read_joints(path: Path) -> npt.NDArray[np.float64]:
    """Return `pos_img` of a `joint_positions.mat`: float64 `(2, 15, T)`, x then y, pixels counted from 1.

    Raises:
        LayoutError: the file is absent, damaged or holds another shape.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        values = np.asarray(loadmat(path)["pos_img"], np.float64)
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, MatReadError) as error:
        raise LayoutError(f"joint file {path} cannot be read ({error})", expected="a .mat file with pos_img") from error
    if values.ndim == 2:  # MATLAB drops a last axis of one frame
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[:2] != (2, JOINTS):
        raise LayoutError(f"joint file {path} holds pos_img of shape {values.shape}", expected=f"(2, {JOINTS}, frames)")
    return values


def open_set(root: Path, split: str | None = None, *, fold: int = 1) -> VideoSet:
    """Return the clips of `list_clips` (default `test`) as clips without masks. Raises as `list_clips`."""
    findings = Findings()
    split = choose_split(split, SPLITS, layout="jhmdb", default="test")
    if not subfolders(root / "Rename_Images"):
        findings.error(root / "Rename_Images", "there is no class folder", "Copy Rename_Images from the data set")
    poses = list_clips(root, split, fold=fold, findings=findings)
    clips = tuple(Clip(pose.name, frames=pose.frames) for pose in poses)
    return VideoSet(f"jhmdb-{split}", "jhmdb", root, split, clips, score_rule="all", problems=tuple(findings.problems))


def check_clip(clip: Clip, root: Path, findings: Findings) -> None:
    """Note faults of a clip's joint file in its official place."""
    check_joint_file(root / "joint_positions" / clip.name / "joint_positions.mat", clip, findings)


def check_joint_file(path: Path, clip: Clip, findings: Findings) -> None:
    """Note a joint file that cannot be read or counts other frames than the clip has."""
    try:
        found = read_joints(path).shape[2]
    except LayoutError as error:
        findings.error(path, error.found, error.fix or "Copy it from the data set again")
        return
    if found != len(clip.frames):
        findings.error(
            path, f"joint positions of {found} frames, the clip has {len(clip.frames)}", "Copy clip and joint file again"
        )
