"""Scores of propagated labels: PCK of body joints (JHMDB) and mean IoU of parts (VIP), in their plain definitions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vos_core.errors import ScoreError


def pck(truth: npt.ArrayLike, prediction: npt.ArrayLike, *, threshold: float = 0.1, sizes: npt.ArrayLike | None = None) -> float:
    """Return the share of joints that lie within `threshold` times the person's size of their true place, 0-1.

    Args:
        truth: `(T, K, 2)` pixel coordinates; joints with NaN are left out.
        prediction: same shape; NaN counts as not found.
        threshold: 0.1 and 0.2 are usual.
        sizes: `(T,)` size of the person in pixels; None = the larger side of the box of the true joints of that frame.

    Raises:
        ScoreError: the shapes do not fit or no joint is known.

    Example:
        >>> pck([[[0, 0], [10, 0]]], [[[0, 0.5], [14, 0]]], threshold=0.2)
        0.5
    """
    true, guess = np.asarray(truth, np.float64), np.asarray(prediction, np.float64)
    if true.ndim != 3 or true.shape[2] != 2 or guess.shape != true.shape:
        raise ScoreError(f"joints have the shapes {true.shape} and {guess.shape}", expected="(frames, joints, 2) on both sides")
    known = np.logical_not(np.isnan(true).any(axis=2))
    if not known.any():
        raise ScoreError("no joint of the truth is known", expected="at least one joint without NaN")
    if sizes is None:
        scale = np.array(
            [np.ptp(joints[there], axis=0).max() if there.any() else 0.0 for joints, there in zip(true, known, strict=True)]
        )
    else:
        scale = np.asarray(sizes, np.float64)
        if scale.shape != (len(true),):
            raise ScoreError(f"sizes have the shape {scale.shape}", expected=f"one size for each of the {len(true)} frames")
    distance = np.linalg.norm(true - guess, axis=2)
    found = distance <= threshold * scale[:, None]  # NaN compares as not found
    return float(found[known].mean())


def mean_iou(pairs: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], *, classes: int, ignore: int | None = 255) -> float:
    """Return the mean over classes of intersection over union, both counted over all frames, 0-1.

    Arguments and errors are those of `label_confusion`; classes that neither side shows are left out.
    """
    return mean_iou_of(label_confusion(pairs, classes=classes, ignore=ignore))


def label_confusion(
    pairs: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], *, classes: int, ignore: int | None = 255
) -> npt.NDArray[np.int64]:
    """Return how many pixels of each true class (rows) got each label (columns), `(classes, classes)`.

    Tables of several clips may be added up.

    Args:
        pairs: true and predicted label maps `(H, W)`, frame by frame; label 0 (background) is a class.
        classes: number of classes with background (VIP: 20).
        ignore: label of truth pixels that do not count.

    Raises:
        ScoreError: sizes differ, or a label is not below `classes`.
    """
    confusion = np.zeros((classes, classes), np.int64)
    for index, (truth, prediction) in enumerate(pairs):
        true, guess = np.asarray(truth), np.asarray(prediction)
        if true.shape != guess.shape:
            raise ScoreError(f"frame {index}: label maps have the shapes {true.shape} and {guess.shape}", expected="one shape")
        kept = np.ones(true.shape, bool) if ignore is None else true != ignore
        a, b = true[kept].astype(np.int64), guess[kept].astype(np.int64)
        highest = max(a.max(initial=0), b.max(initial=0))
        if highest >= classes:
            raise ScoreError(f"frame {index}: label {highest}", expected=f"labels 0..{classes - 1}")
        confusion += np.bincount(classes * a + b, minlength=classes * classes).reshape(classes, classes)
    return confusion


def mean_iou_of(confusion: npt.NDArray[np.int64]) -> float:
    """Return the mean intersection over union, 0-1, of the classes that occur in a table of `label_confusion`.

    Raises:
        ScoreError: it counts no pixel.
    """
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    if not union.any():
        raise ScoreError("no pixel to score", expected="at least one frame")
    present = union > 0
    return float((confusion.diagonal()[present] / union[present]).mean())
