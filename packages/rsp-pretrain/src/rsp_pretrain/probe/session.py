"""Running a probe over the clips of a data set: one failure does not stop the others, what is done is not done again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from rsp_pretrain import METHOD
from rsp_pretrain.model import Encoder, build_rsp
from rsp_pretrain.segmenter import frozen
from rsp_pretrain.weights import ANY_VIT, load_encoder, load_rsp
from vos_core.contract import Precision
from vos_core.errors import InterruptError, OutputError, UsageError
from vos_core.run.device import apply_numerics, apply_threads, check_precision, choose_device, seed_everything, torch_dtype
from vos_core.run.memory import MemoryMeter
from vos_core.run.pool import Progress, interruptible, run_here, run_processes, worker_device
from vos_core.run.record import RUN_FILE, describe_environment, input_sha256, write_run
from vos_core.run.runner import choose_variant, choose_weights
from vos_core.run.shards import DoneList
from vos_core.run.worker import ClipOutcome, failed_outcome
from vos_core.types import Clip, ClipRecord, RunRecord


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A frozen encoder with what `run.json` says about it.

    Args:
        encoder: on its device, in its precision.
        settings: variant, weights, device, precision, seed.
        device: torch device string.
        dtype: of its matrices.
        report: what was ignored in the checkpoint; empty for untrained weights.
        opened_with: the arguments of `open_encoder` that gave it, so that another process can open it too.
    """

    encoder: Encoder
    settings: Mapping[str, Any]
    device: str
    dtype: torch.dtype
    report: str
    opened_with: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ClipResult:
    """What a probe made of a clip.

    Args:
        objects: joints or classes that were followed.
        size: (height, width) of the frames.
        steps: seconds of each frame.
        masks: mask files that were written.
    """

    objects: int
    size: tuple[int, ...]
    steps: Sequence[float]
    masks: int = 0


class ClipTask(Protocol):
    """What a probe does with a clip; sent to other processes, so an instance of a module-level class."""

    def __call__(self, loaded: LoadedEncoder, clip: Clip) -> ClipResult:
        """Write the result of `clip` and say what it is."""
        ...


def open_encoder(
    *,
    weights: str = "auto",
    variant: str | None = None,
    device: str = "auto",
    precision: Precision = "fp32",
    threads: int | None = None,
    seed: int = 0,
    whole: bool = False,
    norm_pix_loss: bool | None = None,
) -> LoadedEncoder:
    """Return the encoder that these options name.

    Args:
        weights: `auto`, a registered name, a file, or `random`.
        variant: of the method; None = its first, or with a file whatever that holds.
        device: see `vos_core.run.device.choose_device`.
        precision: of the encoder's matrices.
        threads: CPU threads.
        seed: of untrained weights.
        whole: the whole pre-training network (`RSP`), which must then be in the checkpoint.
        norm_pix_loss: what that network predicts; None = told by the checkpoint, else the default.

    Raises:
        UsageError: unknown names, or a precision that the device lacks.
        WeightsError: no usable weights.
    """
    if variant is None and weights not in ("auto", "random") and Path(weights).is_file():
        variant = ANY_VIT  # a file tells its own sizes
    variant = choose_variant(METHOD, variant)
    device = choose_device(device)
    check_precision(precision, device)
    dtype = torch_dtype(precision, device)
    apply_threads(threads)
    apply_numerics(precision, device)
    seed_everything(seed)
    chosen = choose_weights(METHOD, variant, weights)
    encoder, report = (
        _whole(chosen.path, variant, seed, norm_pix_loss) if whole else load_encoder(chosen.path, variant=variant, seed=seed)
    )
    settings = {
        "method": METHOD.name,
        "variant": variant,
        "weights": chosen.record,
        "device": device.partition(":")[0],
        "precision": precision,
        "seed": seed,
    }
    opened_with = {
        "weights": weights,
        "variant": variant,
        "device": device,
        "precision": precision,
        "threads": threads,
        "seed": seed,
        "whole": whole,
        "norm_pix_loss": norm_pix_loss,
    }
    return LoadedEncoder(
        frozen(encoder, device=torch.device(device), dtype=dtype),
        settings,
        device,
        dtype,
        "" if report is None else str(report),
        opened_with,
    )


def _whole(path: Path | None, variant: str | None, seed: int, norm_pix_loss: bool | None) -> tuple[Encoder, None]:
    known = None if variant == ANY_VIT else variant
    options = {} if norm_pix_loss is None else {"norm_pix_loss": norm_pix_loss}
    if path is not None:
        return load_rsp(path, variant=known, **options), None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_rsp(known or "rsp_vit_small_patch16", **options).eval(), None


def run_clips(
    clips: Sequence[Clip],
    task: ClipTask,
    *,
    output: Path,
    loaded: LoadedEncoder,
    options: Mapping[str, Any],
    present: Callable[[Clip], bool],
    score: Callable[[Sequence[Clip]], Mapping[str, Any]],
    resume: bool = True,
    overwrite: bool = False,
    processes: int = 1,
    on_clip: Callable[[int, int], object] | None = None,
) -> RunRecord:
    """Run `task` over `clips`, score those that are done, write `<output>/run.json` and return what it says.

    Args:
        clips: of the data set.
        task: what is done with a clip.
        output: folder of results.
        loaded: the encoder.
        options: everything else that decides the results.
        present: whether the result of a clip is on disk.
        score: figures over the clips that are done.
        resume: False runs all clips again.
        overwrite: replace results in `output` that other settings made.
        processes: workers, each with an encoder of its own; with CUDA they are dealt out over the devices.
        on_clip: called with (clips ended, clips in all).

    Raises:
        UsageError: no clips, or results of other settings in `output`.
        OutputError: `output` cannot be written.
        InterruptError: stopped by Ctrl-C or SIGTERM; finished clips are kept.
    """
    if not clips:
        raise UsageError("there is no clip to run over", fix="Check --root and --only")
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    settings = {**loaded.settings, **options}  # flat: a refusal then names the option that differs
    done = DoneList(output, settings, overwrite=overwrite)
    recorded = {"options": dict(options), **{name: loaded.settings[name] for name in ("precision", "device", "seed")}}
    records: dict[str, ClipRecord] = {}

    def write(scores: Mapping[str, Any] | None) -> RunRecord:
        with done.merged() as known:
            record = RunRecord(
                method=METHOD.name,
                variant=loaded.settings["variant"],
                weights=loaded.settings["weights"],
                options=dict(options),
                environment=describe_environment(METHOD, device=loaded.device),
                clips=tuple(records.get(clip.name, ClipRecord(clip.name, "skipped")) for clip in clips),
                scores=scores,
                started=started,
                output=str(output),
                settings=recorded,
            )
            entries = {name: {k: v for k, v in entry.items() if k != "record"} for name, entry in known.items()}
            others = tuple(item for name, item in done.records().items() if name not in {clip.name for clip in clips})
            whole = replace(record, clips=record.clips + others)
            write_run(whole, output / RUN_FILE, resume={"settings": done.settings, "clips": entries})
        return record

    def finish(clip: Clip, found: ClipOutcome) -> None:
        records[clip.name] = found.record
        if found.record.status == "done":
            done.finish(clip, found.record, written=found.written)

    def advance(event: Progress) -> None:
        if event.kind == "ended" and on_clip is not None:
            on_clip(len(records), len(clips))

    for clip in clips:
        kept = done.done(clip) if resume else None
        if kept is not None and present(clip):
            records[clip.name] = kept
    todo = [clip for clip in clips if clip.name not in records]
    if on_clip is not None and records:
        on_clip(len(records), len(clips))
    try:
        with interruptible():
            if processes > 1 and len(todo) > 1:
                start = partial(_open_worker, task, loaded.opened_with)
                run_processes(start, todo, processes=processes, begin=done.begin, outcome=finish, progress=advance)
            else:
                run_here(_Worker(task, loaded), todo, begin=done.begin, outcome=finish, progress=advance)
    except KeyboardInterrupt:
        write(None)
        count = sum(record.status == "done" for record in records.values())
        raise InterruptError(
            f"interrupted with {count} of {len(clips)} clips done in {output}",
            fix="Run the same command again to go on; finished clips are kept",
        ) from None
    finished = [clip for clip in clips if records[clip.name].status == "done"]
    return write(score(finished) if finished else None)


def record_json(record: RunRecord) -> dict[str, Any]:
    """Return a record as JSON values."""
    return asdict(record)


class _Worker:
    """Runs the clips of a probe with one encoder."""

    def __init__(self, task: ClipTask, loaded: LoadedEncoder) -> None:
        self.task, self.loaded = task, loaded

    def run(self, clip: Clip, on_frame: Callable[[int, int], None] | None = None) -> ClipOutcome:
        """Return how `clip` went; only an interrupt and a full disk, which no further clip would escape, pass through."""
        begin, meter = time.perf_counter(), MemoryMeter(self.loaded.device)
        try:
            result = self.task(self.loaded, clip)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001 - one clip's failure must not stop the others
            return failed_outcome(clip, error)
        record = ClipRecord(
            name=clip.name,
            status="done",
            frames=len(clip.frames),
            objects=result.objects,
            height=result.size[0],
            width=result.size[1],
            seconds_total=time.perf_counter() - begin,
            step_seconds=tuple(result.steps),
            peak_memory_bytes=meter.peak_bytes(),
            input_sha256=input_sha256(clip),
        )
        return ClipOutcome(record, result.masks)


def _open_worker(task: ClipTask, opened_with: Mapping[str, Any], index: int) -> _Worker:
    return _Worker(task, open_encoder(**{**opened_with, "device": worker_device(opened_with["device"], index)}))
