"""One method over many clips: masks, `run.json`, resume; the one function that the command lines and the benchmark call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from vos_core.contract import BuildRequest, MethodInfo, Precision
from vos_core.errors import InterruptError, OutputError, UsageError, WeightsError
from vos_core.io.atomic import output_error
from vos_core.run.device import check_precision, choose_device
from vos_core.run.pool import (
    OnProgress,
    Progress,
    Scheduler,
    interruptible,
    rank_share,
    run_here,
    run_processes,
    run_ray,
    start_worker,
    torchrun_rank,
    worker_device,
)
from vos_core.run.record import RUN_FILE, describe_environment, write_run
from vos_core.run.shards import DoneList
from vos_core.run.tta import Augmentation
from vos_core.run.worker import ClipOutcome, Job, OverlayFormat, PaletteChoice, Worker
from vos_core.types import Clip, ClipRecord, RunRecord

WithoutMask = Literal["fail", "skip"]
"""What becomes of a clip that no mask belongs to: it fails, or it is left out and listed with the reason."""


def run_method(
    method: MethodInfo,
    clips: Sequence[Clip],
    *,
    output: Path,
    weights: str | None = "auto",
    variant: str | None = None,
    options: Mapping[str, Any] | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    seed: int = 0,
    resume: bool = True,
    overwrite: bool = False,
    processes: int = 1,
    scheduler: Scheduler = "local",
    augmentation: Augmentation | None = None,
    overlay: OverlayFormat | None = None,
    soft: Path | None = None,
    palette: PaletteChoice = "davis",
    object_masks: bool = False,
    without_mask: WithoutMask = "fail",
    on_progress: OnProgress | None = None,
) -> RunRecord:
    """Return what running `method` over `clips` cost; with masks in `<output>/<clip>/<frame>.png`, the record in `run.json`.

    A failing clip is recorded and the others go on. A clip that is done (same settings, same input, masks still there) is not run
    again; an unfinished one begins anew and yields the same bytes. Under torchrun each rank runs its share of the clips.

    Args:
        method: what to run.
        clips: what to run it over; names are unique.
        output: the folder of results; made if absent.
        weights: `auto` (or None) for the default checkpoint of the variant, a registered name, a file, or `random` for seeded
            untrained weights.
        variant: one of the method's variants; None for its first.
        options: the method's own configuration.
        device: `auto`, `cpu`, `cuda` or `cuda:<index>`.
        precision: `fp32` is the parity path.
        threads: CPU threads for computing; None leaves the libraries' defaults.
        seed: seeds untrained weights and everything random.
        resume: False runs all clips again.
        overwrite: replace masks in `output` that other settings made.
        processes: workers; with CUDA they are dealt out over the devices.
        scheduler: where workers live: `local` processes or `ray` actors.
        augmentation: flips and scales to average over.
        overlay: also write a video with painted objects per clip.
        soft: also write probabilities to this folder.
        palette: colours of mask files: `davis`, `aot`, or `first` to copy each clip's first annotation.
        object_masks: write `<output>/<clip>/<object>/<frame>.png`, a file per object, instead of label maps.
        without_mask: `skip` leaves clips without any mask out, with the reason in their records; for clips that nobody named.
        on_progress: told when clips begin, advance and end.

    Raises:
        UsageError: wrong arguments, results of other settings in `output`, or clips of which none has a mask.
        WeightsError: no usable weights.
        OutputError: `output` cannot be written.
        InterruptError: stopped by Ctrl-C or SIGTERM; finished clips are kept.
    """
    _check_clips(clips, output, soft)
    skipped = skipped_records(clips, without_mask)
    if processes < 1:
        raise UsageError(f"{processes} processes", expected="1 or more")
    variant = choose_variant(method, variant)
    if not method.needs_weights and device == "auto":
        device = "cpu"  # nothing to compute on a device, and torch need not be imported to find one
    rank, world = torchrun_rank()
    device = choose_device(device)
    check_precision(precision, device)
    chosen = choose_weights(method, variant, weights)
    request = BuildRequest(
        variant=variant,
        weights=chosen.path,
        seed=seed,
        device=worker_device(device, rank) if world > 1 else device,
        precision=precision,
        options=dict(options or {}),
        probabilities=soft is not None,
    )
    job = Job(method, request, output, palette, overlay, soft, augmentation, threads, object_masks)
    shown = {
        "method": method.name,
        "variant": variant,
        "weights": chosen.record,
        "options": dict(options or {}),
        "precision": precision,
        "device": device.partition(":")[0],
        "seed": seed,
        "augmentation": asdict(augmentation) if augmentation else None,
        "palette": palette,
        "overlay": overlay,
        "soft": soft is not None,
        **({"object_masks": True} if object_masks else {}),
    }
    environment = describe_environment(method, device=request.device, threads=threads)
    run = _Run(shown, output, clips, environment, overwrite, rank if world > 1 else None)
    run.records.update(skipped)
    run.recorded = _all_settings(method, request, shown)
    usable = [clip for clip in clips if clip.name not in skipped]
    todo = run.begin(rank_share(usable, rank, world) if world > 1 else usable, resume=resume)
    progress = on_progress or (lambda event: None)
    for name, record in skipped.items():
        progress(Progress(name, "ended", record=record))
    try:
        with interruptible():
            if not todo:
                pass
            elif scheduler == "ray":
                run_ray(job, todo, processes=processes, begin=run.done.begin, outcome=run.outcome, progress=progress)
            elif processes > 1 and len(todo) > 1:
                start = partial(start_worker, job)
                run_processes(start, todo, processes=processes, begin=run.done.begin, outcome=run.outcome, progress=progress)
            else:
                run_here(Worker(job), todo, begin=run.done.begin, outcome=run.outcome, progress=progress)
    except KeyboardInterrupt:
        run.write()
        finished = sum(record.status == "done" for record in run.records.values())
        raise InterruptError(
            f"interrupted with {finished} of {len(clips)} clips done in {output}",
            fix="Run the same command again to resume; finished clips are kept",
        ) from None
    return run.write()


@dataclass(frozen=True, slots=True)
class ChosenWeights:
    """A checkpoint file (None: seeded, or none needed) and what `run.json` says about it."""

    path: Path | None
    record: dict[str, Any]


def choose_variant(method: MethodInfo, variant: str | None) -> str | None:
    """Return `variant`, or the method's first; None if it has none."""
    if variant is None:
        return method.variants[0] if method.variants else None
    if variant not in method.variants:
        known = f"one of: {', '.join(method.variants)}" if method.variants else "no --variant: it has one form"
        raise UsageError(f"method '{method.name}' has no variant '{variant}'", expected=known)
    return variant


def choose_weights(method: MethodInfo, variant: str | None, weights: str | None) -> ChosenWeights:
    """Return the weights to use.

    Raises:
        UsageError: weights for a method that takes none.
        WeightsError: the checkpoint cannot be found, downloaded or verified.
    """
    wanted = weights or "auto"
    if not method.needs_weights:
        if wanted not in ("auto", "random"):
            raise UsageError(f"method '{method.name}' takes no weights", fix="Leave out --weights")
        return ChosenWeights(None, {"name": "none", "sha256": None, "trained": True})
    if wanted == "random":
        return ChosenWeights(None, {"name": "random", "sha256": None, "trained": False})
    from vos_core.weights.registry import resolve

    if method.register is not None:
        method.register()
    automatic = wanted == "auto"
    if automatic:
        names = method.weights.get(variant or "", ())
        if not names:
            raise WeightsError(
                f"no released weights are known for method '{method.name}', variant '{variant}'",
                fix="Give --weights FILE, or --weights random for an untrained run",
            )
        wanted = names[0]
    try:
        found = resolve(wanted, method=method.name)
    except WeightsError as error:
        if not automatic:
            raise
        raise WeightsError(
            f"the default weights '{wanted}' of method '{method.name}' are not at hand: {error.found}",
            expected=error.expected,
            fix="Give --weights FILE, or --weights random for an untrained run" + (f". {error.fix}" if error.fix else ""),
        ) from error
    return ChosenWeights(found.path, {"name": found.name or found.path.name, "sha256": found.sha256, "trained": True})


def skipped_records(clips: Sequence[Clip], without_mask: WithoutMask) -> dict[str, ClipRecord]:
    """Return clip name -> record of the clips to leave out, as `without_mask` says.

    Raises:
        UsageError: no clip would be left.
    """
    bare = [clip.name for clip in clips if not clip.annotations] if without_mask == "skip" else []
    if bare and len(bare) == len(clips):
        raise UsageError(
            f"none of the {len(clips)} clips has a mask, for example {bare[0]}",
            expected="a mask of the objects to follow, with the stem of a frame",
        )
    reason = "it has no mask, so there is nothing to prompt the method with"
    return {name: ClipRecord(name=name, status="skipped", error=reason) for name in bare}


def _all_settings(method: MethodInfo, request: BuildRequest, shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return what repeats a run: `shown` with the values of options that were left out, and the backends of ops."""
    rest = {name: value for name, value in shown.items() if name not in ("method", "variant", "weights", "options")}
    options = request.options if method.settings is None else method.settings(request)
    ops = os.environ.get("VOS_OPS", "auto")  # vos_core.ops.backend knows the name, too, but imports torch
    return {"options": dict(options), **rest, "ops": ops}


class _Run:
    """The records of a run under way and their files."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        output: Path,
        clips: Sequence[Clip],
        environment: Mapping[str, Any],
        overwrite: bool,
        rank: int | None,
    ) -> None:
        self.settings, self.output, self.clips, self.environment = settings, output, clips, environment
        self.recorded: Mapping[str, Any] = {}
        self.records: dict[str, ClipRecord] = {}
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.done = DoneList(output, settings, overwrite=overwrite, rank=rank)

    def begin(self, own: Sequence[Clip], *, resume: bool) -> list[Clip]:
        """Return the clips of this process that are still to run."""
        todo: list[Clip] = []
        for clip in own:
            self.done.check_foreign(clip)
            record = self.done.done(clip) if resume else None
            if record is None:
                todo.append(clip)
            else:
                self.records[clip.name] = record
        return todo

    def outcome(self, clip: Clip, found: ClipOutcome) -> None:
        """Keep how `clip` went; on disk at once if it is done."""
        self.records[clip.name] = found.record
        if found.record.status == "done":
            self.done.finish(clip, found.record, written=found.written)

    def write(self) -> RunRecord:
        """Write `run.json` with every clip that any process of this run has done; return the record of the wanted clips."""
        with self.done.merged() as known:
            found = {name: record for name, record in self.done.records().items() if name not in self.records}
            for clip in self.clips:
                if clip.name not in self.records:
                    self.records[clip.name] = found.pop(clip.name, ClipRecord(name=clip.name, status="skipped"))
            record = RunRecord(
                method=self.settings["method"],
                variant=self.settings["variant"],
                weights=self.settings["weights"],
                options=self.settings["options"],
                environment=self.environment,
                clips=tuple(self.records[clip.name] for clip in self.clips),
                started=self.started,
                output=str(self.output),
                settings=self.recorded,
            )
            resume = {
                "settings": self.settings,
                "clips": {name: {key: value for key, value in entry.items() if key != "record"} for name, entry in known.items()},
            }
            others = tuple(item for name, item in found.items())
            write_run(replace(record, clips=record.clips + others), self.output / RUN_FILE, resume=resume)
        return record


def _check_clips(clips: Sequence[Clip], output: Path, soft: Path | None) -> None:
    """Refuse to run over nothing, over clashing names, or over folders that results would overwrite."""
    if not clips:
        raise UsageError("no clips to run over", fix="Check the clip selection; see: vos run --help")
    names = [clip.name for clip in clips]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"clip names {twice} occur more than once", fix="Rename the folders or run them into separate outputs")
    try:
        inputs = {
            path.resolve().parent
            for clip in clips
            for path in (*clip.frames[:1], *([clip.annotations[min(clip.annotations)]] if clip.annotations else ()))
        }
        for clip in clips:
            parts = PurePosixPath(clip.name).parts
            if not parts or clip.name.startswith("/") or ".." in parts or "\\" in clip.name:
                raise UsageError(f"'{clip.name}' cannot name a result folder", expected="a relative folder name")
            for folder in (output / clip.name, *([soft / clip.name] if soft else ())):
                if folder.resolve() in inputs:
                    raise UsageError(
                        f"results of clip '{clip.name}' would go into {folder}, which holds its input",
                        fix="Choose another --output",
                    )
    except OSError as error:
        raise output_error(output, error) from error
    if output.exists() and not output.is_dir():
        raise OutputError(f"output {output} is a file", expected="a folder")
