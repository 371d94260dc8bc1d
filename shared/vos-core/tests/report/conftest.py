from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vos_core.data.synthetic import make_scene
from vos_core.data.synthetic_write import ClipPlan, write_folder
from vos_core.io.masks import write_mask
from vos_core.types import Clip, ClipRecord, RunRecord

FRAMES = tuple(f"{i:05d}" for i in range(6))


def score_row(clip, object_id, j, f):
    return {
        "clip": clip, "object": str(object_id), "J": float(np.mean(j)), "F": float(np.mean(f)),
        "frames": list(FRAMES[1:5]), "J_frames": list(j), "F_frames": list(f),
    }  # fmt: skip


def run_record(method, folder, names, rows, *, trained=True, seconds=0.01):
    j, f = (float(np.mean([row[key] for row in rows])) for key in "JF")
    return RunRecord(
        method=method, variant=None,
        weights={"name": "best-v1" if trained else "random", "sha256": "0" * 64 if trained else None, "trained": trained},
        options={"memory": {"every": 5}},
        environment={"python": "3.12.1", "cpu": "Some CPU", "versions": {"torch": "2.7.0"}, "memory_measured": "resident"},
        clips=tuple(
            ClipRecord(
                name=name, status="done", frames=6, objects=2, height=48, width=80, seconds_total=0.2,
                step_seconds=(seconds,) * 6, peak_memory_bytes=300 * 2**20, state_bytes=2 * 2**20,
            )
            for name in names
        ),
        scores={"protocol": "folder", "J&F": (j + f) / 2, "J": j, "F": f, "per_object": rows},
        started="2026-01-02T03:04:05+00:00", output=str(folder),
    )  # fmt: skip


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Two runs over two clips: `good` repeats the truth, `poor` swaps objects of the first clip and loses them in the second."""
    root = tmp_path_factory.mktemp("runs")
    plan = ClipPlan(clips=2, frames=6, height=48, width=80, objects=2, scenarios=("motion",), seed=3)
    names = write_folder(root / "clips", plan)
    clips = tuple(
        Clip(
            name=name,
            frames=tuple(root / "clips" / "JPEGImages" / name / f"{frame}.jpg" for frame in FRAMES),
            annotations={frame: root / "clips" / "Annotations" / name / f"{frame}.png" for frame in FRAMES},
        )
        for name in names
    )
    swap = np.array([0, 2, 1], np.uint8)
    for seed, name in zip((3, 4), names, strict=True):
        scene = make_scene(seed, frames=6, height=48, width=80, objects=2, scenario="motion")
        for index, frame in enumerate(FRAMES):
            labels = scene.draw(index)[1]
            poor = swap[labels] if name == names[0] and index >= 2 else labels * np.uint8(name == names[0] or index == 0)
            write_mask(root / "good" / name / f"{frame}.png", labels)
            write_mask(root / "poor" / name / f"{frame}.png", poor)
    ones = (1.0,) * 4
    good = run_record("good", root / "good", names, [score_row(n, i, ones, ones) for n in names for i in (1, 2)])
    rows = [score_row(names[0], i, (1.0, 0.0, 0.05, 0.02), (1.0, 0.1, 0.2, 0.1)) for i in (1, 2)]
    rows += [score_row(names[1], 1, (0.6, 0.0, 0.0, 0.5), (0.7, 0, 0, 0.5)), score_row(names[1], 2, (0.0,) * 4, (0.0,) * 4)]
    poor = run_record("poor", root / "poor", names, rows, trained=False, seconds=0.5)
    return SimpleNamespace(clips=clips, names=names, good=good, poor=poor, records=(good, poor))


@pytest.fixture
def failed(runs):
    """The good run with its first clip failed."""
    clip = replace(runs.good.clips[0], status="failed", error="frame <b>00003</b> is torn", step_seconds=(), frames=0)
    return replace(runs.good, clips=(clip, runs.good.clips[1]), scores=None)
