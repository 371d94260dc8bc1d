"""What a method does before or between frames, told to whoever shows progress: a fit to a clip takes minutes without a frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OnWork = Callable[[str, int, int], None]
"""Told what is done, steps done, and steps in all."""
_shown: ContextVar[OnWork | None] = ContextVar("vos_work", default=None)


def report_work(what: str, done: int, total: int) -> None:
    """Say that step `done` of `total` of `what` is finished; nothing happens where nobody listens.

    Args:
        what: a few words, such as "fitting object 3".
        done: from 1 to `total`.
        total: steps in all.
    """
    on_work = _shown.get()
    if on_work is not None:
        on_work(what, done, total)


@contextmanager
def work_shown(on_work: OnWork) -> Iterator[None]:
    """Within the block, in this thread, tell `on_work` what `report_work` is told."""
    token = _shown.set(on_work)
    try:
        yield
    finally:
        _shown.reset(token)
