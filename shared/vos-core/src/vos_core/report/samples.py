"""Small pictures for the page: the same frames of a clip as each method painted them, beside the truth."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vos_core.errors import VosError
from vos_core.io.frames import open_clip
from vos_core.io.masks import read_clip_mask, read_mask
from vos_core.io.palette import DAVIS_PALETTE
from vos_core.report.compare import labels as run_labels
from vos_core.report.scores import frame_means
from vos_core.types import Clip, LabelMap, RgbImage, RunRecord

_WIDTH = 256  # pixels of a thumbnail
_QUALITY = 82
_OPACITY = 0.5


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One picture as a data URI, with the words that describe it; `uri` is empty where there is no mask."""

    uri: str
    text: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class SampleGrid:
    """Pictures of one clip: `rows` are (who painted it, one picture per frame).

    Args:
        clip: name of the clip.
        frames: (frame name, why it was chosen).
        rows: the truth first, if there is any, then each run.
    """

    clip: str
    frames: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Thumbnail, ...]], ...]


def sample_grids(records: Sequence[RunRecord], clips: Sequence[Clip], *, limit: int = 8) -> list[SampleGrid]:
    """Return grids for at most `limit` clips, those with the lowest scores first.

    Clips whose frames cannot be read are left out: their failure stands in the records.
    """
    done = {clip.name for record in records if record.output for clip in record.clips if clip.status == "done"}
    grids = []
    for clip in sorted((clip for clip in clips if clip.name in done), key=lambda clip: _lowest(records, clip.name))[:limit]:
        try:
            grids.append(sample_grid(records, clip))
        except VosError:
            continue
    return grids


def sample_grid(records: Sequence[RunRecord], clip: Clip) -> SampleGrid:
    """Return the pictures of one clip.

    Raises:
        VosError: frames or masks that cannot be read.
    """
    with closing(open_clip(clip)) as source:
        names = list(source.names)
        chosen = choose_frames(records, clip, names)
        pictures = {name: source.read(names.index(name)).rgb for name, _ in chosen}
    rows: list[tuple[str, tuple[Thumbnail, ...]]] = []
    if any(name in clip.annotations for name, _ in chosen):
        rows.append(("truth", tuple(_truth(clip, name, pictures[name]) for name, _ in chosen)))
    for label, record in zip(run_labels(records), records, strict=True):
        means = frame_means(record, clip.name)
        folder = Path(record.output or "") / clip.name
        cells = []
        for name, _ in chosen:
            path, score = folder / f"{name}.png", means.get(name)
            scored = "" if score is None else f", J&F {100 * score:.1f}"
            text = f"{label}, frame {name} of {clip.name}{scored}"
            if not path.is_file():
                cells.append(Thumbnail("", f"{label} has no mask for frame {name}"))
                continue
            cells.append(Thumbnail(data_uri(overlay(pictures[name], read_mask(path))), text, score))
        rows.append((label, tuple(cells)))
    return SampleGrid(clip.name, chosen, tuple(rows))


def choose_frames(records: Sequence[RunRecord], clip: Clip, names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return up to five frames in time order with why: first prompt, middle, last, and the worst of the two weakest runs."""
    annotated = [name for name in names if name in clip.annotations]
    first = names.index(annotated[0]) if annotated else 0
    answered = [name for name in names[first:] if clip.outputs is None or name in clip.outputs] or list(names[first:])
    chosen = {answered[-1]: "last", answered[len(answered) // 2]: "middle", answered[0]: "first"}
    lowest = []
    for label, record in zip(run_labels(records), records, strict=True):
        means = frame_means(record, clip.name)
        if means:
            frame = min(means, key=lambda name: means[name])
            lowest.append((means[frame], frame, f"worst of {label}"))
    for _, frame, why in sorted(lowest)[:2]:
        if frame in names:
            chosen[frame] = f"{chosen[frame]}, {why}" if frame in chosen else why
    return tuple((name, chosen[name]) for name in sorted(chosen, key=names.index))


def overlay(rgb: RgbImage, labels: LabelMap) -> RgbImage:
    """Return `rgb` `(H, W, 3)` with each object of `labels` `(H, W)` tinted in its palette colour and outlined in white."""
    if labels.shape != rgb.shape[:2]:
        raise VosError(f"mask of {labels.shape} for a frame of {rgb.shape[:2]}", expected="one size")
    # Lighter than the palette itself, whose first colours are too dark to show on a dark frame.
    colours = np.minimum(DAVIS_PALETTE[labels.astype(np.intp) % 256] * 1.5 + 30.0, 255.0)
    inside = labels > 0
    painted = rgb.astype(np.float32)
    painted[inside] = (1 - _OPACITY) * painted[inside] + _OPACITY * colours[inside]
    edge = np.zeros(labels.shape, np.bool_)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    painted[edge] = 255
    return painted.astype(np.uint8)


def data_uri(rgb: RgbImage) -> str:
    """Return a JPEG thumbnail, at most 256 pixels wide, as a data URI."""
    picture = Image.fromarray(rgb)
    if picture.width > _WIDTH:
        picture = picture.resize((_WIDTH, max(1, round(picture.height * _WIDTH / picture.width))), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _truth(clip: Clip, name: str, rgb: RgbImage) -> Thumbnail:
    if name not in clip.annotations:
        return Thumbnail("", f"no truth for frame {name}")
    labels = read_clip_mask(clip, name, (rgb.shape[0], rgb.shape[1]))
    if clip.void is not None:
        labels = np.where(labels == clip.void, 0, labels)
    return Thumbnail(data_uri(overlay(rgb, labels)), f"truth, frame {name} of {clip.name}")


def _lowest(records: Sequence[RunRecord], clip: str) -> float:
    values = [value for record in records for value in frame_means(record, clip).values()]
    return min(values, default=1.0)
