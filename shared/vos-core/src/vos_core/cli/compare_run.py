"""Runs methods one after the other over the same clips and writes what came of it; the command and the benchmark call it."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

from vos_core.cli.options import split_names
from vos_core.contract import MethodInfo, Precision, discover, get_method
from vos_core.errors import InterruptError, UsageError, VosError
from vos_core.io.atomic import write_json
from vos_core.report.compare import RECORD_FILE, comparison_record
from vos_core.report.page import write_page
from vos_core.report.scoring import score_run
from vos_core.run.pool import interruptible
from vos_core.run.runner import WithoutMask, choose_variant, run_method, skipped_records
from vos_core.types import Clip, ClipRecord, RunRecord

PAGE_FILE = "page.html"
MissingWeights = Literal["download", "random"]
"""What happens to a method whose default weights are not on this machine."""


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method of a comparison; `weights` as `run_method` takes them."""

    method: str
    variant: str | None = None
    weights: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its result folder, unique in a comparison."""
        return f"{self.method}-{self.variant}" if self.variant else self.method


def parse_methods(
    text: str | None, *, weights: Mapping[str, str] | None = None, options: Mapping[str, Mapping[str, Any]] | None = None
) -> list[MethodSpec]:
    """Return specs from `name,name:variant`; all installed methods without a text.

    Args:
        text: methods separated by commas.
        weights: method -> weights.
        options: method -> its options.

    Raises:
        UsageError: an unknown or repeated method, or weights or options for a method that does not take part.
    """
    weights, options = weights or {}, options or {}
    words = list(discover()) if text is None else split_names(text)
    specs = []
    for word in words:
        name, _, variant = word.partition(":")
        get_method(name)
        specs.append(MethodSpec(name, variant or None, weights.get(name, "auto"), options.get(name, {})))
    if not specs:
        raise UsageError("no methods were named", fix="Give --methods A,B; see: vos methods")
    folders = [spec.folder for spec in specs]
    twice = sorted({name for name in folders if folders.count(name) > 1})
    if twice:
        raise UsageError(f"methods {', '.join(twice)} occur twice", expected="each method and variant once")
    strangers = sorted({*weights, *options} - {spec.method for spec in specs})
    if strangers:
        raise UsageError(f"weights or options were given for {', '.join(strangers)}", expected="only methods that take part")
    return specs


def compare(
    specs: Sequence[MethodSpec],
    clips: Sequence[Clip],
    *,
    output: Path,
    title: str,
    missing_weights: MissingWeights = "download",
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    seed: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    without_mask: WithoutMask = "fail",
    extra: Mapping[str, Any] | None = None,
    on_method: Callable[[str], None] | None = None,
) -> list[RunRecord]:
    """Return a scored record of each method and write `<output>/record.json` and `<output>/page.html`.

    Each method runs in a fresh process: its memory is its own, and one that is killed does not stop the others.

    Args:
        specs: the methods, in the order of the table.
        clips: what they run over.
        output: masks go to `<output>/<method>/<clip>/`.
        title: heading of the page.
        missing_weights: `random` never downloads.
        device, precision, threads, seed, resume, overwrite, without_mask: as for `run_method`.
        extra: further keys of the record, shown on the page as well.
        on_method: called with the name of each method before it runs.

    Raises:
        UsageError: wrong arguments. InterruptError: stopped by the user.
    """
    records = []
    for spec in specs:
        if on_method:
            on_method(spec.folder)
        weights = chosen_weights(spec, missing=missing_weights)
        settings = {
            "output": output / spec.folder,
            "weights": weights,
            "variant": spec.variant,
            "options": dict(spec.options),
            "device": device,
            "precision": precision,
            "threads": threads,
            "seed": seed,
            "resume": resume,
            "overwrite": overwrite,
            "without_mask": without_mask,
        }
        records.append(score_run(_run_apart(spec, clips, settings), clips))
    write_json(output / RECORD_FILE, {**comparison_record(records, title=title), **(extra or {})})
    write_page(records, output / PAGE_FILE, title=title, clips=clips, about=extra)
    return records


def chosen_weights(spec: MethodSpec, *, missing: MissingWeights) -> str:
    """Return the weights to run with: `random` instead of a default that would have to be downloaded, if `missing` says so."""
    info = get_method(spec.method)
    if spec.weights != "auto" or missing == "download" or not info.needs_weights:
        return spec.weights
    return spec.weights if _is_cached(info, spec.variant) else "random"


def _is_cached(info: MethodInfo, variant: str | None) -> bool:
    from vos_core.weights.registry import get

    names = info.weights.get(choose_variant(info, variant) or "", ())
    if info.register is not None:
        info.register()
    return bool(names) and get(names[0], method=info.name).cached_path.is_file()


def _run_apart(spec: MethodSpec, clips: Sequence[Clip], settings: Mapping[str, Any]) -> RunRecord:
    """Return the record of one method from a process of its own; what stops a method fails its clips, not the comparison."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit the memory of this process
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, spec.method, clips, settings))
    try:
        with interruptible():
            process.start()
            theirs.close()  # or the end of the process would not end the pipe
            try:
                answer: RunRecord | VosError = mine.recv()
            except EOFError:
                process.join()
                answer = VosError(f"its process died with exit code {process.exitcode}{_death_hint(process.exitcode)}")
    except KeyboardInterrupt:
        process.terminate()  # the run tidies up and keeps its finished clips
        raise InterruptError(
            f"interrupted while {spec.folder} ran", fix="Run the same command again to resume; finished clips are kept"
        ) from None
    finally:
        process.join()
        mine.close()
    if isinstance(answer, RunRecord):
        return answer
    if isinstance(answer, UsageError | InterruptError):
        raise answer
    skipped = skipped_records(clips, settings["without_mask"])
    return RunRecord(
        method=spec.method,
        variant=spec.variant,
        weights={"name": settings["weights"], "sha256": None, "trained": settings["weights"] != "random"},
        options=spec.options,
        environment={},
        clips=tuple(skipped.get(clip.name, ClipRecord(clip.name, "failed", error=str(answer))) for clip in clips),
        output=str(settings["output"]),
    )


def _death_hint(code: int | None) -> str:
    return " (killed, perhaps for want of memory)" if code == -signal.SIGKILL else ""


def _serve(pipe: Connection, method: str, clips: Sequence[Clip], settings: Mapping[str, Any]) -> None:
    """Send the record of a run, or the error that stopped it, from a process of its own."""
    from vos_core.cli.progress import ProgressBar

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    try:
        with ProgressBar(clips) as bar:
            pipe.send(run_method(get_method(method), clips, on_progress=bar.update, **settings))
    except VosError as error:
        with contextlib.suppress(OSError):  # the parent may be gone
            pipe.send(error)
