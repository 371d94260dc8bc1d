"""Values that cross folder borders, and the one shape vocabulary of the project.

Dimension letters: B batch, T frames, N objects, C channels, H W pixels, h w stride-16 cells, L tokens, K kept.
Dense tensor code may suffix names with them (`key_BCL`, `prob_NHW`).
Images are uint8 `(H, W, 3)` RGB; label maps are uint8 or uint16 `(H, W)` holding original object ids, 0 = background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

RgbImage = npt.NDArray[np.uint8]
"""uint8 `(H, W, 3)`, RGB, 0-255."""
LabelMap = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
"""`(H, W)` of object ids; 0 is background."""
BinaryMask = npt.NDArray[np.bool_]
"""bool `(H, W)`."""

VOID = 255
"""Label that means "do not score" where a layout says so."""

MaskKind = Literal["labels", "binary", "objects"]
"""`labels`: one label map per frame; `binary`: any value > 0 is object 1; `objects`: each object's own,
one binary PNG per object folder or run lengths in one JSON file, so that they may overlap."""
PromptRule = Literal["first_frame", "first_seen", "all"]
"""Which annotated frames are given to a method: only the clip's first mask, each id where it first shows up, or every mask."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded frame. `index` counts from 0 in the clip; `name` is the file stem (or a zero-padded number)."""

    index: int
    name: str
    rgb: RgbImage


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the user says about one object in one frame: a mask, or (methods that can) clicks or a box.

    Args:
        object_id: original id, 1..65535.
        mask: bool `(H, W)` at the frame's size.
        points: float32 `(P, 2)`, x then y in pixels of the frame.
        point_labels: int `(P,)`, 1 = on the object, 0 = not.
        box: `(x0, y0, x1, y1)` in pixels.
    """

    object_id: int
    mask: BinaryMask | None = None
    points: npt.NDArray[np.float32] | None = None
    point_labels: npt.NDArray[np.int64] | None = None
    box: tuple[float, float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class FrameResult:
    """A method's answer for one frame.

    Args:
        labels: label map at the frame's own size with original ids.
        ids: original ids in slot order (the order of `probs`).
        probs: float32 `(N + 1, H, W)`, background first, 0-1, at the frame's size; only if asked for.
        masks: bool `(N, H, W)`, each object's own mask, from methods whose objects may overlap; None = those of `labels`.
    """

    labels: LabelMap
    ids: tuple[int, ...]
    probs: npt.NDArray[np.float32] | None = None
    masks: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """One video of a data set, described and not yet read.

    Args:
        name: folder-like name, unique in its set; masks go to `<output>/<name>/<frame name>.png`.
        frames: image files in time order; empty when `video` is given.
        video: a video file; its frames are named 00000, 00001, ...
        annotations: frame name -> mask file, or folder holding one PNG per object when `mask_kind` is `objects`
            (then the value is the folder that holds the object folders and the frame name is looked up in each, or the JSON
            file of run lengths that holds all frames).
        mask_kind: how annotation files are to be read.
        prompt_rule: which annotations a method may see as input; the rest is truth for scoring.
        outputs: frame names whose masks are results; None = every frame from the first prompt on.
        object_ids: ids to follow, if the layout lists them; None = all nonzero ids but void.
        void: label to ignore in annotations (None: 255 is an id like any other).
        binary_output: write 0/255 grey PNGs instead of palette ones (DAVIS 2016).
    """

    name: str
    frames: tuple[Path, ...] = ()
    video: Path | None = None
    annotations: Mapping[str, Path] = field(default_factory=dict)
    mask_kind: MaskKind = "labels"
    prompt_rule: PromptRule = "first_seen"
    outputs: frozenset[str] | None = None
    object_ids: tuple[int, ...] | None = None
    void: int | None = VOID
    binary_output: bool = False


@dataclass(frozen=True, slots=True)
class ClipRecord:
    """What one run over one clip cost and whether it ended well. Seconds are wall clock, bytes are bytes.

    `input_sha256` is over names and bytes of its frames and masks: the same input, the same preparation of a data set.
    """

    name: str
    status: Literal["done", "failed", "skipped"]
    frames: int = 0
    objects: int = 0
    height: int = 0
    width: int = 0
    seconds_total: float = 0.0
    seconds_adapt: float = 0.0
    step_seconds: tuple[float, ...] = ()
    peak_memory_bytes: int = 0
    state_bytes: int = 0
    warnings: tuple[str, ...] = ()
    error: str | None = None
    input_sha256: str | None = None

    @property
    def seconds_per_frame(self) -> float:
        """Mean seconds the method needed for a frame, decoding and writing left out; 0.0 without frames."""
        return sum(self.step_seconds) / len(self.step_seconds) if self.step_seconds else 0.0


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One method over one list of clips: everything that `run.json` and the reports hold.

    `weights` has `name`, `sha256` and `trained` (False: seeded weights, never a result). `options` are those that were given,
    `settings` what repeats the run: the value of every option of the method (`options`), precision, seed and the like.
    `scores` has dataset means (`J&F`, `J`, `F`, 0-1) and `per_object` rows when the clips have ground truth.
    """

    method: str
    variant: str | None
    weights: Mapping[str, Any]
    options: Mapping[str, Any]
    environment: Mapping[str, Any]
    clips: tuple[ClipRecord, ...]
    scores: Mapping[str, Any] | None = None
    started: str = ""
    output: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
