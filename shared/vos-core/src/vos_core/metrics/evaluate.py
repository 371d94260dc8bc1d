"""Scores a list of videos by a protocol, one video per task, and writes the official files and `results.json`.

`results.json` holds full precision, the protocol with its options, the tool's version and hashes of the inputs' file lists,
so that a later run can tell whether it may reuse them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vos_core.__about__ import __version__
from vos_core.errors import ScoreError, UsageError
from vos_core.io.atomic import write_json, write_text
from vos_core.metrics.scores import Conclusion, ObjectScores, ScoringProtocol, VideoScores
from vos_core.metrics.source import VideoJob

RESULTS = "results.json"
Progress = Callable[[VideoScores], None]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a data set by one protocol.

    Args:
        protocol: its name.
        options: its options.
        scores: dataset values, 0-1; NaN where there is nothing to average.
        videos: per-frame values of every object.
        object_scores: summary values of every object, in the order of the objects over `videos`.
        tables: name -> text of the official tool's files.
        warnings: what the user should know.
        inputs: hashes of the file lists.
    """

    protocol: str
    options: Mapping[str, Any]
    scores: Mapping[str, float]
    videos: tuple[VideoScores, ...]
    object_scores: tuple[Mapping[str, float], ...]
    tables: Mapping[str, str]
    warnings: tuple[str, ...]
    inputs: Mapping[str, Any]

    def rows(self) -> Iterator[tuple[ObjectScores, Mapping[str, float]]]:
        """Return every object with its summary values."""
        objects = (item for video in self.videos for item in video.objects)
        return zip(objects, self.object_scores, strict=True)

    def record(self) -> dict[str, Any]:
        """Return what `results.json` holds; NaN becomes null."""
        return {
            "protocol": self.protocol,
            "tool": {"name": "vos-core", "version": __version__},
            "options": dict(self.options),
            "inputs": dict(self.inputs),
            "scores": _without_nan(self.scores),
            "warnings": list(self.warnings),
            "videos": {video.video: {"warnings": list(video.warnings)} for video in self.videos},
            "objects": [
                {
                    "video": item.video,
                    "object": item.object_id,
                    "row": item.row,
                    "scores": _without_nan(summary),
                    "details": dict(item.details),
                    "frames": list(item.frames),
                    "values": {metric: _without_nan(list(values)) for metric, values in item.values.items()},
                }
                for item, summary in self.rows()
            ],
        }


def evaluate_videos(
    protocol: ScoringProtocol,
    jobs: Sequence[VideoJob],
    *,
    processes: int | None = None,
    progress: Progress | None = None,
    reuse: Path | None = None,
) -> Evaluation:
    """Return the scores of all videos by a protocol.

    Args:
        protocol: the rules.
        jobs: the videos in the order of the official tables.
        processes: worker processes, each with one video at a time, longest first; None = one per CPU.
        progress: called after each video, in any order.
        reuse: a `results.json`; its per-frame values are taken if protocol, options, version and file lists agree.

    Raises:
        VosError: masks that are missing, damaged or against the protocol's rules; names video, frame and file.
    """
    if not jobs:
        raise UsageError("there is no video to score", fix="Check the paths and the sequence list")
    inputs = file_lists(jobs)
    options = _options(protocol)
    videos = None if reuse is None else _reused(reuse, protocol=protocol.name, options=options, inputs=inputs)
    if videos is None:
        videos = score_videos(protocol, jobs, processes=processes, progress=progress)
    conclusion = protocol.conclude(videos)
    return _evaluation(protocol.name, options, videos, conclusion, inputs)


def score_videos(
    protocol: ScoringProtocol, jobs: Sequence[VideoJob], *, processes: int | None = None, progress: Progress | None = None
) -> list[VideoScores]:
    """Return the per-frame values of the videos in the order of `jobs`."""
    workers = min(processes or os.cpu_count() or 1, len(jobs))
    results: dict[int, VideoScores] = {}
    if workers == 1:
        for index, job in enumerate(jobs):
            results[index] = protocol.score(job)
            if progress:
                progress(results[index])
        return [results[index] for index in range(len(jobs))]
    largest_first = sorted(range(len(jobs)), key=lambda index: -_size(jobs[index]))
    with ProcessPoolExecutor(workers, mp_context=_context(), initializer=_one_thread) as pool:
        running = {pool.submit(protocol.score, jobs[index]): index for index in largest_first}
        pending = set(running)
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    results[running[future]] = future.result()
                except BrokenProcessPool as error:
                    raise ScoreError(
                        f"a worker process ended while scoring video {jobs[running[future]].video} or another one",
                        fix="Free memory or use fewer processes",
                    ) from error
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
                if progress:
                    progress(results[running[future]])
    return [results[index] for index in range(len(jobs))]


def write_results(
    evaluation: Evaluation, folder: Path, *, tables: Iterable[str] | None = None, record: bool = True
) -> list[Path]:
    """Write the official files and `results.json` to a folder; return their paths.

    Args:
        evaluation: what to write.
        folder: where; made if absent.
        tables: names of the official files to write; None = all.
        record: whether to write `results.json`.
    """
    paths = []
    for name in evaluation.tables if tables is None else tables:
        write_text(folder / name, evaluation.tables[name])
        paths.append(folder / name)
    if record:
        write_json(folder / RESULTS, evaluation.record())
        paths.append(folder / RESULTS)
    return paths


def file_lists(jobs: Sequence[VideoJob]) -> dict[str, Any]:
    """Return, for truth and prediction, the number of PNGs and a SHA-256 over their names, sizes and modification times."""
    found: dict[str, Any] = {}
    for side in ("truth", "prediction"):
        digest, count = hashlib.sha256(), 0
        for job in jobs:
            listed = job.truth_files if side == "truth" else None
            files = _walk(getattr(job, side)) if listed is None else [(str(path), path.stat()) for path in listed.values()]
            for name, status in files:
                digest.update(f"{job.video}\0{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
                count += 1
            described = {"objects": {key: dict(item) for key, item in job.objects.items()}, "length": job.length}
            digest.update(json.dumps(described, sort_keys=True).encode())
        found[side] = {"files": count, "sha256": digest.hexdigest()}
    return found


def _walk(folder: Path) -> list[tuple[str, os.stat_result]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    files = []
    for entry in entries:
        if entry.is_dir():
            files += [(f"{entry.name}/{name}", status) for name, status in _walk(Path(entry.path))]
        elif entry.name.endswith(".png"):
            files.append((entry.name, entry.stat()))
    return files


def _size(job: VideoJob) -> int:
    return sum(status.st_size for _, status in _walk(job.truth)) if job.truth_files is None else len(job.truth_files)


def _context() -> multiprocessing.context.BaseContext:
    # A fork is much cheaper than a new interpreter, but unsafe once torch or another library has started threads.
    fork = sys.platform == "linux" and "torch" not in sys.modules
    return multiprocessing.get_context("fork" if fork else "spawn")


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(1)


def _options(protocol: ScoringProtocol) -> dict[str, Any]:
    # Fields that do not take part in comparisons (start times) are no options.
    known = dataclasses.fields(protocol)  # type: ignore[arg-type] # all of ours are dataclasses
    values = {item.name: getattr(protocol, item.name) for item in known if item.compare}
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in values.items()}


def _evaluation(
    name: str, options: Mapping[str, Any], videos: Sequence[VideoScores], conclusion: Conclusion, inputs: Mapping[str, Any]
) -> Evaluation:
    warnings = tuple(warning for video in videos for warning in video.warnings) + tuple(conclusion.warnings)
    return Evaluation(
        name, options, conclusion.scores, tuple(videos), tuple(conclusion.objects), conclusion.tables, warnings, inputs
    )


def _reused(path: Path, *, protocol: str, options: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[VideoScores] | None:
    """Return the stored per-frame values if they belong to exactly this evaluation, else None."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        wanted = (protocol, {"name": "vos-core", "version": __version__}, dict(options), dict(inputs))
        if tuple(stored[key] for key in ("protocol", "tool", "options", "inputs")) != wanted:
            return None
        objects: dict[str, list[ObjectScores]] = {video: [] for video in stored["videos"]}
        for item in stored["objects"]:
            values = {metric: [math.nan if v is None else v for v in column] for metric, column in item["values"].items()}
            objects[item["video"]].append(
                ObjectScores(item["video"], item["object"], item["row"], tuple(item["frames"]), values, item["details"])
            )
        return [VideoScores(video, tuple(objects[video]), tuple(about["warnings"])) for video, about in stored["videos"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # absent or of another tool: score again


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
