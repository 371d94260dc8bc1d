"""Running one step over many files: in this process or several, with a count of what was written, kept and failed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Generic, TypeVar

from vos_core.errors import OutputError, VosError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Outcome:
    """What became of a step.

    Args:
        planned: what is to be done, in words; all that a dry run gives.
        written: things done now.
        kept: things that were done before.
        failed: what could not be done, and why.
        notes: further facts for the report.
    """

    planned: list[str] = field(default_factory=list)
    written: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done(Generic[Item, Result]):
    """One job that ended: its result, or the error that stopped it."""

    item: Item
    result: Result | None = None
    error: VosError | None = None


def run_jobs(function: Callable[[Item], Result], items: Sequence[Item], *, processes: int = 1) -> Iterator[Done[Item, Result]]:
    """Yield every job as it ends. A job's `VosError` is its outcome; one that no further job would escape is raised.

    Args:
        function: a module-level function, so that other processes find it.
        items: what it is called with.
        processes: 1 = in this process. They are stopped when the generator is closed.

    Raises:
        OutputError: results cannot be written (full disk).
        VosError: a process died.
    """
    if processes <= 1 or len(items) <= 1:
        for item in items:
            yield _checked(_guarded(function, item))
        return
    # A fork of a process with threads (OpenCV, torch, FFmpeg) can hang.
    pool = ProcessPoolExecutor(min(processes, len(items)), mp_context=get_context("spawn"), initializer=_leave_interrupts)
    try:
        futures = [pool.submit(_guarded, function, item) for item in items]
        for future in as_completed(futures):
            yield _checked(future.result())
    except BrokenProcessPool as error:
        raise VosError("a worker process died", fix="Use fewer --processes if memory ran out; a rerun goes on") from error
    finally:
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join()


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files beside `target` that a killed process left."""
    if target.parent.is_dir():
        for path in target.parent.iterdir():
            if path.name.startswith(f".{target.stem}.") and path.suffix == target.suffix:
                path.unlink(missing_ok=True)


def _guarded(function: Callable[[Item], Result], item: Item) -> Done[Item, Result]:
    try:
        return Done(item, result=function(item))
    except VosError as error:
        return Done(item, error=error)


def _checked(done: Done[Item, Result]) -> Done[Item, Result]:
    if isinstance(done.error, OutputError):
        raise done.error
    return done


def _leave_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
