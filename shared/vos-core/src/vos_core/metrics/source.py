"""Where the masks of one video lie, and how a protocol reads them frame by frame."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vos_core.errors import MaskError, ScoreError
from vos_core.io.png import read_indices
from vos_core.metrics.packed import LabelFrame
from vos_core.types import VOID, Clip

Missing = Literal["error", "empty"]
"""What an absent prediction is: a mistake, or an empty mask."""
Labels = npt.NDArray[Any]
"""uint8 or uint16 `(H, W)`."""


def list_masks(folder: Path) -> dict[str, Path]:
    """Return the PNGs of a folder by frame name, in name order; empty if there is no such folder."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".png") and entry.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    return {name[:-4]: folder / name for name in names}


def list_folders(folder: Path) -> list[str]:
    """Return the names of the sub-folders in name order; empty if there is no such folder."""
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


@dataclass(frozen=True, slots=True)
class VideoJob:
    """One video to score; small enough to send to another process.

    Args:
        video: its name.
        truth: folder of the ground truth PNGs.
        prediction: folder of the predicted PNGs.
        truth_files: frame name -> truth file, in time order, where a layout lists them; None = every PNG in `truth`.
        objects: what a protocol's meta file says about the objects, by object name.
        length: number of frames if a meta file says it.
        clip: the described clip, where masks are read by its rules instead of as plain label maps.
    """

    video: str
    truth: Path
    prediction: Path
    truth_files: Mapping[str, Path] | None = None
    objects: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    length: int | None = None
    clip: Clip | None = None


class VideoReader:
    """Reads truth and prediction of one video and says which video, frame and file is at fault.

    Args:
        job: the video.
        missing: whether an absent prediction is an error or an empty mask.
        binary: every value above 0 is object 1, on both sides.
        truth_void: label that is no object in the truth and becomes background; None keeps it.
        rounding: what becomes of a prediction that is one pixel off: an error as in the official tools, or `fit_rounding`.
    """

    def __init__(
        self,
        job: VideoJob,
        *,
        missing: Missing = "error",
        binary: bool = False,
        truth_void: int | None = VOID,
        rounding: Literal["error", "fit"] = "error",
    ) -> None:
        self.job, self.missing, self.binary, self.truth_void, self.rounding = job, missing, binary, truth_void, rounding
        self.truth_files = list_masks(job.truth) if job.truth_files is None else dict(job.truth_files)
        self.prediction_files = list_masks(job.prediction)
        if not self.truth_files:
            raise ScoreError(
                f"video {job.video}: no ground truth PNG in {job.truth}", fix="Check the data set folder and the sequence name"
            )
        if not self.prediction_files and missing == "error":
            raise ScoreError(
                f"video {job.video}: no predicted PNG in {job.prediction}",
                expected=f"one mask per frame, such as {job.prediction / (self.names[0] + '.png')}",
                fix="Check the results folder, or pass --missing empty to score absent masks as empty",
            )
        self.absent = 0

    @property
    def names(self) -> list[str]:
        """Frame names of the truth in time order."""
        return list(self.truth_files)

    def truth(self, name: str) -> Labels:
        """Return the truth's label map of a frame; see `raw_truth` for the void."""
        labels = self.raw_truth(name)
        return labels if self.truth_void is None or self.binary else without(labels, self.truth_void)

    def raw_truth(self, name: str) -> Labels:
        """Return the truth's label map of a frame with its void label."""
        if name not in self.truth_files:
            raise ScoreError(
                f"video {self.job.video}, frame {name}: no ground truth mask {self.job.truth / (name + '.png')}",
                fix="Check the frame range in the meta file and the ground truth folder",
            )
        return self._read(self.truth_files[name], name)

    def prediction(self, name: str, like: Labels) -> Labels:
        """Return the predicted label map of a frame, of the same size as the truth `like`; empty if absent and allowed to be."""
        path = self.prediction_files.get(name)
        if path is None:
            if self.missing == "error":
                raise ScoreError(
                    f"video {self.job.video}, frame {name}: no predicted mask {self.job.prediction / (name + '.png')}",
                    fix="Write a mask for every scored frame, or pass --missing empty to score absent masks as empty",
                )
            self.absent += 1
            return np.zeros(like.shape, np.uint8)
        labels = self._read(path, name)
        if self.rounding == "fit":
            labels = fit_rounding(labels, like.shape)
        check_size(labels, like, video=self.job.video, frame=name, path=path)
        return labels

    def pair(self, name: str) -> tuple[LabelFrame, LabelFrame]:
        """Return truth and prediction of a frame, ready to be packed."""
        truth = self.truth(name)
        return self.frame(truth), self.frame(self.prediction(name, truth))

    def frame(self, labels: Labels) -> LabelFrame:
        """Return a label map ready to be packed, its objects merged if the reader is binary."""
        return LabelFrame(labels, binary=self.binary)

    def warnings(self) -> tuple[str, ...]:
        """Return what a user should know about the frames that were read."""
        return absent_warning(self.job.video, self.absent)

    def _read(self, path: Path, name: str) -> Labels:
        return read_labels(path, video=self.job.video, frame=name)


def read_labels(path: Path, *, video: str, frame: str) -> Labels:
    """Return the label map in a PNG; a `MaskError` of the reader is raised again with video and frame."""
    try:
        return read_indices(path)
    except MaskError as error:
        raise MaskError(f"video {video}, frame {frame}: {error.found}", expected=error.expected, fix=error.fix) from error


def absent_warning(video: str, count: int) -> tuple[str, ...]:
    """Return the warning about predictions that were not there, none for a count of 0."""
    return (f"video {video}: {count} predicted masks are absent and scored as empty",) if count else ()


def check_size(labels: Labels, like: Labels, *, video: str, frame: str, path: Path) -> None:
    """Raise a `ScoreError` unless the prediction has the truth's size."""
    if labels.shape != like.shape:
        raise ScoreError(
            f"video {video}, frame {frame}: {path} is {labels.shape[1]}x{labels.shape[0]} pixels",
            expected=f"{like.shape[1]}x{like.shape[0]} as in the ground truth",
            fix="Write masks at the size of the annotations (resize labels with nearest neighbour)",
        )


def fit_rounding(labels: Labels, size: tuple[int, ...]) -> Labels:
    """Return labels of `size` (height, width), the last row or column repeated or cut, if they are at most one pixel off.

    Masks and frames that a resizer rounded differently belong together all the same; other sizes are returned as they are.
    """
    (rows, columns), (height, width) = labels.shape, size
    if labels.shape == size or abs(rows - height) > 1 or abs(columns - width) > 1:
        return labels
    return labels[np.minimum(np.arange(height), rows - 1)[:, None], np.minimum(np.arange(width), columns - 1)]


def without(labels: Labels, value: int) -> Labels:
    """Return the label map with `value` set to background."""
    found = labels == value
    if not found.any():
        return labels
    return np.where(found, labels.dtype.type(0), labels)
