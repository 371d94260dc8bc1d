"""What a training run tells: a progress bar, one JSON object a line, and TensorBoard with pictures where it is installed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from vos_core.extras import require
from vos_core.io.atomic import output_error

PictureGrid = npt.NDArray[np.uint8]
"""uint8 `(H, W, 3)` RGB."""


class RunLog:
    """Writer of one run's figures; on ranks other than the main one it writes nothing.

    Args:
        folder: gets `log.jsonl` (appended by a resumed run) and, with TensorBoard, event files.
        total: steps of the whole run, for the bar's estimate of the time left.
        start: steps already done.
        active: False on ranks that must not write.
        tensorboard: write event files; needs the extra `train`.
        progress: show the bar on stderr.
    """

    def __init__(
        self, folder: Path, *, total: int, start: int = 0, active: bool = True, tensorboard: bool = False, progress: bool = True
    ) -> None:
        self.folder, self.active = folder, active
        self._events: Any = None
        self._since = (start, time.perf_counter())
        if not active:
            self._bar = None
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _cut(folder / "log.jsonl", start)
        except OSError as error:
            raise output_error(folder, error) from error
        if tensorboard:
            require("tensorboard", extra="train", purpose="write TensorBoard logs")
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(folder), purge_step=start)
        pause = 0.1 if sys.stderr.isatty() else 30.0  # seconds: a terminal gets a bar that moves, a log file a line now and then
        self._bar = tqdm(
            total=total,
            initial=start,
            unit="step",
            file=sys.stderr,
            disable=not progress,
            mininterval=pause,
            dynamic_ncols=True,
        )

    def step(self) -> None:
        """Count one step on the bar."""
        if self._bar is not None:
            self._bar.update(1)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Write the figures of `step` and the mean seconds a step took since the last call."""
        if not self.active:
            return
        last, then = self._since
        now = time.perf_counter()
        row = {"step": step, **values, "seconds_per_step": (now - then) / max(1, step - last)}
        self._since = (step, now)
        path = self.folder / "log.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise output_error(path, error) from error
        if self._bar is not None:
            self._bar.set_postfix({key: f"{value:.4g}" for key, value in list(values.items())[:3]})
        if self._events is not None:
            for key, value in values.items():
                self._events.add_scalar(key, value, step)

    def pictures(self, step: int, pictures: Mapping[str, PictureGrid]) -> None:
        """Add pictures to TensorBoard, or nothing without it."""
        if self._events is not None:
            for key, picture in pictures.items():
                self._events.add_image(key, picture, step, dataformats="HWC")

    def close(self) -> None:
        """End the bar and the event file."""
        if self._bar is not None:
            self._bar.close()
        if self._events is not None:
            self._events.close()


def picture_grid(rows: list[list[PictureGrid]]) -> PictureGrid:
    """Return pictures of one size as one picture, row by row."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _cut(path: Path, start: int) -> None:
    """Drop lines after step `start`, so that a resumed run does not tell a step twice."""
    if path.is_file():
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= start]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")  # a line cut short by a kill
