"""Joints as label maps and back, and their score: PCK by the public JHMDB protocol (spec 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vos_core.errors import ScoreError

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)
SIGMA = 0.5
CELLS = 5

Points = npt.NDArray[np.float64]
"""float64 `(2, K, T)` or `(2, K)`: x then y of K joints."""


def to_grid(positions: Points, *, frame_size: tuple[int, int], size: tuple[int, int], patch: int = 16) -> Points:
    """Return joint positions in tokens.

    Args:
        positions: `(2, K, T)` pixels of the frame counted from 1, as JHMDB stores them.
        frame_size: (height, width) of the frame.
        size: (height, width) that it is resized to.
        patch: pixels per token.
    """
    scale = np.array([size[1] / frame_size[1] / patch, size[0] / frame_size[0] / patch])
    return (positions - 1) * scale[:, None, None]


def joint_labels(points: Points, grid: tuple[int, int], *, sigma: float = SIGMA) -> npt.NDArray[np.float32]:
    """Return label maps of one frame, float32 `(K + 1, h, w)`: background, then a Gaussian stamp per joint.

    The stamp is placed at whole tokens: its corner is the truncated (x - 3 sigma, y - 3 sigma). Background is 1 where no joint
    reaches, 0 elsewhere.

    Args:
        points: `(2, K)` in tokens.
        grid: (h, w) in tokens.
        sigma: of the stamp in tokens.
    """
    side = np.arange(0, 6 * sigma + 1)
    bump = np.exp(-((side - (6 * sigma + 1) // 2) ** 2) / (2 * sigma**2))
    stamp = np.outer(bump, bump)
    maps = np.zeros((points.shape[1] + 1, *grid), np.float32)
    for joint, (x, y) in enumerate(points.T):
        if not (np.isfinite(x) and np.isfinite(y)):
            continue
        spans = [_span(value, sigma, limit) for value, limit in ((y, grid[0]), (x, grid[1]))]
        if any(span is None for span in spans):
            continue
        (rows, from_rows), (columns, from_columns) = (span for span in spans if span is not None)
        maps[joint + 1, rows, columns] = stamp[from_rows, from_columns]
    maps[0] = maps[1:].sum(0) == 0
    return maps


def _span(centre: float, sigma: float, limit: int) -> tuple[slice, slice] | None:
    """Return which cells a stamp covers on one axis and which of its own; None if it lies outside."""
    low, high = int(centre - 3 * sigma), int(centre + 3 * sigma + 1)
    if low >= limit or high <= 0:
        return None
    start, stop = max(0, low), min(high, limit)
    return slice(start, stop), slice(start - low, stop - low)


def joint_points(soft: npt.NDArray[np.float32], *, cells: int = CELLS) -> Points:
    """Return where the joints of a soft prediction are, `(2, K)` in tokens; (-1, -1) for a joint with no label at all.

    The mean of the `cells` strongest tokens (the lower index first among equals), weighted by their labels.

    Args:
        soft: `(K + 1, h, w)`, background first.
        cells: 5 in the ViT ports, 3 in videowalk.
    """
    joints, width = soft.shape[0] - 1, soft.shape[2]
    flat = soft[1:].reshape(joints, -1)
    places = np.argsort(-flat, 1, kind="stable")[:, :cells]
    weights = np.take_along_axis(flat, places, 1).astype(np.float64)
    total = weights.sum(1)
    share = weights / np.where(total > 0, total, 1)[:, None]
    points = np.stack([(share * (places % width)).sum(1), (share * (places // width)).sum(1)])
    return np.where(total > 0, points, -1.0)


def to_pixels(points: Points, *, frame_size: tuple[int, int], grid: tuple[int, int]) -> Points:
    """Return positions in tokens `(2, K, T)` as pixels of the frame counted from 0; NaN for joints that were not found."""
    scale = np.array([frame_size[1] / grid[1], frame_size[0] / grid[0]])
    pixels = points * scale[:, None, None]
    return np.where(points[:1] < 0, np.nan, pixels)


class PoseScore:
    """PCK over many clips: mean over joints of the percentage of frames that find the joint.

    A joint is found within `threshold * scale * diagonal`, the diagonal being that of the box around the true places of the
    joints that were predicted at all in this frame. Joints that were not predicted are left out, frame 0 as well.

    Args:
        scale: 0.6 in the protocol.
        skip: frames of a clip that do not count.
    """

    def __init__(self, *, scale: float = 0.6, skip: Sequence[int] = (0,)) -> None:
        self.scale, self.skip = scale, frozenset(skip)
        self._errors: dict[int, list[tuple[float, float]]] = {}

    def add(self, truth: Points, prediction: Points) -> None:
        """Count one clip.

        Args:
            truth: `(2, K, T)` pixels counted from 1, as JHMDB stores them.
            prediction: `(2, K, T)` pixels counted from 0, NaN where not found.

        Raises:
            ScoreError: shapes that differ.
        """
        if truth.shape != prediction.shape or truth.ndim != 3:
            raise ScoreError(f"joints have the shapes {truth.shape} and {prediction.shape}", expected="(2, joints, frames) both")
        true = truth - 1
        for frame in set(range(truth.shape[2])) - self.skip:
            seen = np.isfinite(prediction[0, :, frame])
            if not seen.any():
                continue
            places = true[:, seen, frame]
            size = self.scale * float(np.linalg.norm(places.max(1) - places.min(1)))
            distance = np.linalg.norm(prediction[:, :, frame] - true[:, :, frame], axis=0)
            for joint in np.flatnonzero(seen):
                self._errors.setdefault(int(joint), []).append((float(distance[joint]), size))

    def pck(self, threshold: float) -> float:
        """Return PCK at `threshold`, 0-100.

        Raises:
            ScoreError: nothing was counted.
        """
        shares = self.per_joint(threshold)
        return float(np.mean(list(shares.values())))

    def per_joint(self, threshold: float) -> dict[int, float]:
        """Return joint number -> percentage of its frames that find it; raises as `pck`."""
        if not self._errors:
            raise ScoreError("no joint was predicted in any frame", expected="at least one clip of two frames")
        return {
            joint: 100 * float(np.mean([distance <= threshold * size for distance, size in rows]))
            for joint, rows in sorted(self._errors.items())
        }
