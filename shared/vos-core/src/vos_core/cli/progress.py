"""Progress bars on stderr: frames of a run over all clips, and plain counts."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from vos_core.run.pool import Progress
    from vos_core.types import Clip


class ProgressBar:
    """Counts frames of all clips; use as a context manager and pass `update` to `run_method`.

    Args:
        clips: what will run; lengths of videos are learnt when they begin.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._lengths = {clip.name: len(clip.frames) if clip.annotations else 0 for clip in clips}  # no mask, no frame to do
        self._done: dict[str, int] = {}
        self._ended = 0
        pause = 0.1 if sys.stderr.isatty() else 30.0  # seconds: a terminal gets a bar that moves, a log file a line now and then
        total = sum(self._lengths.values())
        self._bar = tqdm(total=total, unit="frame", file=sys.stderr, mininterval=pause, dynamic_ncols=True)
        self._pause, self._worked = pause, time.monotonic()

    def update(self, event: Progress) -> None:
        """Show one event."""
        if event.kind == "frame":
            if event.total != self._lengths[event.clip]:  # a video, or a clip whose first mask comes late
                self._lengths[event.clip] = event.total
                self._bar.total = sum(self._lengths.values())
            self._bar.update(event.done - self._done.get(event.clip, 0))
            self._done[event.clip] = event.done
            return
        if event.kind == "work":
            self._bar.set_postfix_str(
                f"{event.what} {event.done}/{event.total}" if event.done < event.total else "", refresh=False
            )
            if time.monotonic() - self._worked > self._pause:
                self._worked = time.monotonic()
                self._bar.refresh()
            return
        if event.kind == "ended":
            self._ended += 1
        self._bar.set_description(f"{event.clip} ({self._ended}/{len(self._lengths)} clips)", refresh=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()


class CountBar:
    """Counts things done; use as a context manager. Silent when stderr is no terminal.

    Args:
        unit: what is counted.
        total: how many there are, if known from the start.
    """

    def __init__(self, unit: str, *, total: int | None = None) -> None:
        self._count = 0
        self._bar = tqdm(total=total, unit=unit, file=sys.stderr, disable=None, dynamic_ncols=True)

    def advance(self, total: int | None = None) -> None:
        """Count one more, of `total` if that is known now."""
        self.reach(self._count + 1, total)

    def reach(self, count: int, total: int | None = None) -> None:
        """Show that `count` are done, of `total` if that is known now."""
        if total is not None:
            self._bar.total = total
        self._bar.update(count - self._count)
        self._count = count

    def __enter__(self) -> CountBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
