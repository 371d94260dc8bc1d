"""The progress bar of a run: frames over all clips, on stderr, silent when stderr is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from vos_core.run.pool import Progress
from vos_core.types import Clip


class ProgressBar:
    """Counts frames of all clips; use as a context manager and pass `update` to `run_method`.

    Args:
        clips: what will run; lengths of videos are learnt when they begin.
    """

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._lengths = {clip.name: len(clip.frames) for clip in clips}
        self._done: dict[str, int] = {}
        self._ended = 0
        interactive = sys.stderr.isatty()
        # A log file gets a line every half minute, a terminal a bar that moves.
        self._bar = tqdm(
            total=sum(self._lengths.values()),
            unit="frame",
            file=sys.stderr,
            mininterval=0.1 if interactive else 30.0,
            dynamic_ncols=True,
        )

    def update(self, event: Progress) -> None:
        """Show one event."""
        if event.kind == "frame":
            if event.total != self._lengths[event.clip]:  # a video, or a clip whose first mask comes late
                self._bar.total += event.total - self._lengths[event.clip]
                self._lengths[event.clip] = event.total
            self._bar.update(event.done - self._done.get(event.clip, 0))
            self._done[event.clip] = event.done
            return
        if event.kind == "ended":
            self._ended += 1
        self._bar.set_description(f"{event.clip} ({self._ended}/{len(self._lengths)} clips)", refresh=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.close()
