"""A test-time training experiment: configurations x seeds over the same clips, scored, as one table."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vos_core.contract import MethodInfo, Precision
from vos_core.io.atomic import write_json, write_text
from vos_core.metrics.clips import evaluate_clips
from vos_core.run.runner import run_method
from vos_core.types import Clip, RunRecord

BASELINE = "no-ttt"


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of the table.

    Args:
        name: names the output folder.
        variant: of the method; None = without test-time training.
        weights: offline weights.
        options: of the method.
        overwrite: replace what other settings made in the same place.
        precision: in place of the experiment's.
    """

    name: str
    variant: str | None
    weights: str
    options: Mapping[str, Any]
    overwrite: bool = False
    precision: Precision | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One arm with one seed: dataset scores 0-1 (None without truth), seconds per clip, bytes."""

    arm: str
    seed: int
    scores: Mapping[str, float | None]
    adapt_seconds: float
    segment_seconds: float
    peak_bytes: int
    failed: tuple[str, ...]
    output: Path


def run_experiment(
    method: MethodInfo,
    arms: Sequence[Arm],
    clips: Sequence[Clip],
    *,
    seeds: Sequence[int],
    output: Path,
    score: bool = True,
    **settings: Any,
) -> list[Trial]:
    """Return one trial per arm and seed; masks in `<output>/<arm>/<seed>/final/<clip>`, as the original lays them out.

    The baseline has nothing random and runs once. A rerun resumes.

    Args:
        method: STCN.
        arms: what to compare.
        clips: over which.
        seeds: of the sampling.
        output: folder of all results.
        score: compare with the clips' truth, where there is one, by the folder protocol.
        settings: passed on to `vos_core.run.runner.run_method`.
    """
    trials = []
    for arm in arms:
        for seed in seeds[:1] if arm.variant is None else seeds:
            folder = output / arm.name / str(seed) / "final"
            record = run_method(
                method,
                clips,
                output=folder,
                weights=arm.weights,
                variant=arm.variant,
                options=arm.options,
                seed=seed,
                overwrite=arm.overwrite,
                **(settings | ({} if arm.precision is None else {"precision": arm.precision})),
            )
            trials.append(_trial(arm.name, seed, record, clips, folder, score=score))
    return trials


def summarise(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return one row per arm: mean and standard deviation over seeds of each score, mean seconds per clip, largest memory."""
    rows = []
    for name in dict.fromkeys(trial.arm for trial in trials):
        group = [trial for trial in trials if trial.arm == name]
        row: dict[str, Any] = {"arm": name, "seeds": [trial.seed for trial in group]}
        for key in ("J&F", "J", "F"):
            values = [value for trial in group if (value := trial.scores.get(key)) is not None]
            row[key] = statistics.fmean(values) if values else None
            row[f"{key} std"] = statistics.stdev(values) if len(values) > 1 else None
        row["adapt seconds per clip"] = statistics.fmean(trial.adapt_seconds for trial in group)
        row["segment seconds per clip"] = statistics.fmean(trial.segment_seconds for trial in group)
        row["peak MiB"] = max(trial.peak_bytes for trial in group) / 2**20
        row["failed"] = sorted({clip for trial in group for clip in trial.failed})
        rows.append(row)
    return rows


def format_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table: percent with mean ± deviation over seeds."""
    head = "| configuration | seeds | J&F | J | F | adapt s/clip | segment s/clip | peak MiB |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        scores = " | ".join(_percent(row[key], row[f"{key} std"]) for key in ("J&F", "J", "F"))
        seeds = ", ".join(map(str, row["seeds"])) if row["arm"] != BASELINE else "-"
        cost = f"{row['adapt seconds per clip']:.1f} | {row['segment seconds per clip']:.1f} | {row['peak MiB']:.0f}"
        lines.append(f"| {row['arm']} | {seeds} | {scores} | {cost} |")
    return "\n".join(lines) + "\n"


def write_tables(trials: Sequence[Trial], output: Path) -> list[dict[str, Any]]:
    """Write `<output>/table.json` and `<output>/table.md`; return the rows."""
    rows = summarise(trials)
    runs = [
        {"arm": t.arm, "seed": t.seed, "scores": t.scores, "adapt_seconds": t.adapt_seconds, "segment_seconds": t.segment_seconds,
         "peak_bytes": t.peak_bytes, "failed": t.failed, "output": str(t.output)}
        for t in trials
    ]  # fmt: skip
    write_json(output / "table.json", {"rows": rows, "trials": runs})
    write_text(output / "table.md", format_rows(rows))
    return rows


def _trial(name: str, seed: int, record: RunRecord, clips: Sequence[Clip], folder: Path, *, score: bool) -> Trial:
    done = [clip for clip in record.clips if clip.status == "done"]
    names = {clip.name for clip in done}
    scored = [clip for clip in clips if clip.name in names] if score else []
    scores = evaluate_clips(scored, folder) if scored else {}
    count = max(1, len(done))
    return Trial(
        arm=name,
        seed=seed,
        scores={key: _finite(scores.get(key)) for key in ("J&F", "J", "F")},
        adapt_seconds=sum(clip.seconds_adapt for clip in done) / count,
        segment_seconds=sum(sum(clip.step_seconds) for clip in done) / count,
        peak_bytes=max((clip.peak_memory_bytes for clip in done), default=0),
        failed=tuple(clip.name for clip in record.clips if clip.status == "failed"),
        output=folder,
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _percent(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")
