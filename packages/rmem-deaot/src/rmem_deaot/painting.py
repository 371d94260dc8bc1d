"""What `demo` shows of a segmented clip: a painted picture per frame and one video that browsers play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vos_core.io.atomic import write_bytes
from vos_core.io.frames import open_clip, prefetch
from vos_core.io.masks import read_mask
from vos_core.io.palette import AOT_PALETTE
from vos_core.io.video import OverlayWriter, paint_overlay
from vos_core.types import Clip, Frame, LabelMap, RgbImage

ALPHA = 0.6
"""Share of the colour inside an object: the image keeps 0.4."""
FPS = 15.0


def paint(rgb: RgbImage, labels: LabelMap) -> RgbImage:
    """Return a frame with its objects in colour and a black line of one pixel around each."""
    painted = paint_overlay(rgb, labels, alpha=ALPHA, contour=False, palette=AOT_PALETTE)
    painted[outline(labels)] = 0
    return painted


def outline(labels: LabelMap) -> npt.NDArray[np.bool_]:
    """Return the pixels just outside an object: background, or another object, that touches a different label."""
    edge = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        a, b = (np.moveaxis(labels, axis, 0)[part] for part in (slice(None, -1), slice(1, None)))
        moved = np.moveaxis(edge, axis, 0)
        # Of two labels that meet, the line lies on the smaller one: on background around objects.
        moved[:-1] |= a < b
        moved[1:] |= b < a
    return edge


def paint_clip(clip: Clip, masks: Path, pictures: Path, video: Path, *, fps: float = FPS) -> int:
    """Write a painted picture for every frame that has a mask, and the video; return how many.

    The video appears when it is whole, so its presence says that the clip is done.

    Args:
        clip: the frames.
        masks: folder of `<frame>.png`.
        pictures: folder of the painted frames, `<frame>.jpg`.
        video: `.webm` or `.mp4`.
        fps: frames a second.

    Raises:
        FrameError: a frame cannot be read.
        MaskError: a mask cannot be read.
        OutputError: a file cannot be written.
    """
    count = 0
    with OverlayWriter(video, fps=fps, contour=False) as writer:
        for frame, labels in _segmented(clip, masks):
            painted = paint(frame.rgb, labels)
            _, data = cv2.imencode(".jpg", painted[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
            write_bytes(pictures / f"{frame.name}.jpg", data.tobytes())
            writer.write(painted, np.zeros(labels.shape, np.uint8))  # painted already
            count += 1
    return count


def _segmented(clip: Clip, masks: Path) -> Iterator[tuple[Frame, LabelMap]]:
    source = open_clip(clip)
    for frame in prefetch(source):
        path = masks / f"{frame.name}.png"
        if path.is_file():
            yield frame, read_mask(path, size=(frame.rgb.shape[0], frame.rgb.shape[1]))
