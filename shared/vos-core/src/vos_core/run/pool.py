"""Runs clips of a job: in this process, on N local processes, on torchrun ranks, or on Ray actors."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, Protocol

from vos_core.errors import UsageError, VosError
from vos_core.extras import require
from vos_core.run.shards import clip_cost, plan
from vos_core.run.work import work_shown
from vos_core.run.worker import ClipOutcome, Job, Worker
from vos_core.types import Clip, ClipRecord

Scheduler = Literal["local", "ray"]


@dataclass(frozen=True, slots=True)
class Progress:
    """What happened: a clip `began`, is at frame or step of work `done` of `total`, or `ended` with `record`.

    `work` is what a method does before or between frames; `what` says what.
    """

    clip: str
    kind: Literal["began", "frame", "work", "ended"]
    done: int = 0
    total: int = 0
    record: ClipRecord | None = None
    what: str = ""


OnProgress = Callable[[Progress], None]
OnOutcome = Callable[[Clip, ClipOutcome], None]
OnBegin = Callable[[Clip], None]


class ClipWorker(Protocol):
    """Runs clips one after the other; `vos_core.run.worker.Worker` does for methods."""

    def run(self, clip: Clip, on_frame: Callable[[int, int], None] | None = None) -> ClipOutcome:
        """Return how `clip` went; an error in it becomes a failed record. A `VosError` that is raised ends the run."""
        ...


StartWorker = Callable[[int], ClipWorker]
"""Makes worker number `index` of a run; sent to other processes, so a module-level function or a partial of one."""


def torchrun_rank(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return (rank, world size) as torchrun sets them; (0, 1) outside of it.

    Raises:
        UsageError: only one of them is set, or they do not fit.
    """
    rank, world = environment.get("RANK"), environment.get("WORLD_SIZE")
    if rank is None and world is None:
        return 0, 1
    try:
        found = int(rank or ""), int(world or "")
    except ValueError:
        found = (-1, -1)
    if not 0 <= found[0] < found[1]:
        raise UsageError(f"RANK={rank} and WORLD_SIZE={world} do not fit", expected="both as torchrun sets them, or none")
    return found


def rank_share(clips: Sequence[Clip], rank: int, world: int) -> list[Clip]:
    """Return the clips of one rank: the same plan on every rank, longest first."""
    return [clips[index] for index in plan([clip_cost(clip) for clip in clips], world)[rank]]


def worker_device(device: str, worker: int) -> str:
    """Return the device of one of several workers: `cuda:0` is dealt out over all CUDA devices, any other is kept."""
    if device != "cuda:0":
        return device
    import torch

    return f"cuda:{worker % torch.cuda.device_count()}"


def start_worker(job: Job, index: int) -> Worker:
    """Return worker number `index` of a job, on its device.

    Raises:
        VosError: the method cannot be built.
    """
    return Worker(replace(job, request=replace(job.request, device=worker_device(job.request.device, index))))


def run_here(worker: ClipWorker, clips: Sequence[Clip], *, begin: OnBegin, outcome: OnOutcome, progress: OnProgress) -> None:
    """Run `clips` one after the other in this process."""
    for clip in clips:
        begin(clip)
        progress(Progress(clip.name, "began"))
        with work_shown(partial(_tell_work, progress, clip.name)):
            found = worker.run(clip, partial(_tell, progress, clip.name))
        outcome(clip, found)
        progress(Progress(clip.name, "ended", record=found.record))


def _tell(progress: OnProgress, name: str, done: int, total: int) -> None:
    progress(Progress(name, "frame", done, total))


def _tell_work(progress: OnProgress, name: str, what: str, done: int, total: int) -> None:
    progress(Progress(name, "work", done, total, what=what))


def run_processes(
    start_one: StartWorker,
    clips: Sequence[Clip],
    *,
    processes: int,
    begin: OnBegin,
    outcome: OnOutcome,
    progress: OnProgress,
) -> None:
    """Run `clips` on local processes, longest first; a process that dies fails its clip and is replaced.

    Raises:
        VosError: a worker cannot be started, or one raises what no further clip would escape.
    """
    context = multiprocessing.get_context("spawn")  # forked CUDA and OpenCV threads do not work
    waiting = sorted(clips, key=clip_cost)  # taken from the end
    busy: dict[Any, tuple[Any, Clip | None, int]] = {}

    def start(index: int) -> None:
        mine, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(start_one, index, theirs), daemon=True)
        process.start()
        theirs.close()
        busy[mine] = (process, None, index)

    def feed(pipe: Connection) -> None:
        process, _, index = busy[pipe]
        if waiting:
            clip = waiting.pop()
            begin(clip)
            progress(Progress(clip.name, "began"))
            pipe.send(clip)
            busy[pipe] = (process, clip, index)
        else:
            pipe.send(None)
            process.join()
            pipe.close()
            del busy[pipe]

    try:
        for index in range(min(processes, len(clips))):
            start(index)
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                process, clip, index = busy[pipe]
                try:
                    message = pipe.recv()
                except (EOFError, ConnectionError):
                    process.join()
                    pipe.close()
                    del busy[pipe]
                    if clip is None:
                        raise VosError(f"a worker died with exit code {process.exitcode} while it started") from None
                    record = ClipRecord(name=clip.name, status="failed", error=_death(process.exitcode))
                    outcome(clip, ClipOutcome(record))
                    progress(Progress(clip.name, "ended", record=record))
                    if waiting:
                        start(index)
                    continue
                if isinstance(message, VosError):
                    raise message
                if isinstance(message, ClipOutcome):
                    assert clip is not None
                    outcome(clip, message)
                    progress(Progress(clip.name, "ended", record=message.record))
                    feed(pipe)
                elif message == "ready":
                    feed(pipe)
                else:
                    assert clip is not None
                    progress(message)
    finally:
        for pipe, (process, _, _) in busy.items():
            process.terminate()
            process.join(10)
            if process.is_alive():
                process.kill()
            pipe.close()


def _death(code: int | None) -> str:
    hint = " (killed, perhaps for want of memory; use fewer --processes)" if code == -signal.SIGKILL else ""
    return f"its worker process died with exit code {code}{hint}"


def _serve(start_one: StartWorker, index: int, pipe: Connection) -> None:
    """Serve clips from `pipe` in a worker process until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides

    def tell(event: Progress) -> None:
        if event.kind in ("frame", "work"):  # the parent knows when clips begin and end
            pipe.send(event)

    with interruptible():
        try:
            worker = start_one(index)
        except VosError as error:
            pipe.send(error)
            return
        pipe.send("ready")
        try:
            while (clip := pipe.recv()) is not None:
                run_here(worker, [clip], begin=lambda _: None, outcome=lambda _, found: pipe.send(found), progress=tell)
        except (KeyboardInterrupt, EOFError, BrokenPipeError):
            return  # the parent stops us or is gone
        except VosError as error:
            pipe.send(error)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block SIGTERM ends work like Ctrl-C does, so that half-written files are tidied up."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: signals are not ours to handle
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run_ray(job: Job, clips: Sequence[Clip], *, processes: int, begin: OnBegin, outcome: OnOutcome, progress: OnProgress) -> None:
    """Run `clips` on `processes` Ray actors, longest first; each actor takes one GPU if the job's device is CUDA.

    Raises:
        MissingExtraError: Ray is not installed.
        VosError: the method cannot be built in an actor.
    """
    ray = require("ray", extra="scale", purpose="run clips on Ray actors")
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    on_gpu = job.request.device.startswith("cuda")
    own = replace(job, request=replace(job.request, device="cuda:0")) if on_gpu else job  # Ray shows each actor its GPU only
    actor = ray.remote(num_gpus=1 if on_gpu else 0, num_cpus=job.threads or 1)(Worker)
    waiting = sorted(clips, key=clip_cost)
    idle = [actor.remote(own) for _ in range(min(processes, len(clips)))]
    running: dict[Any, tuple[Any, Clip]] = {}
    try:
        while waiting or running:
            while waiting and idle:
                worker, clip = idle.pop(), waiting.pop()
                begin(clip)
                progress(Progress(clip.name, "began"))
                running[worker.run.remote(clip)] = (worker, clip)
            for reference in ray.wait(list(running))[0]:
                worker, clip = running.pop(reference)
                try:
                    found = ray.get(reference)
                except ray.exceptions.RayActorError as error:
                    cause = getattr(error, "cause", None)
                    if isinstance(cause, VosError):
                        raise cause from error
                    found = ClipOutcome(ClipRecord(name=clip.name, status="failed", error=f"its Ray actor died: {error}"))
                    worker = actor.remote(own)
                outcome(clip, found)
                progress(Progress(clip.name, "ended", record=found.record))
                idle.append(worker)
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            ray.kill(worker)
