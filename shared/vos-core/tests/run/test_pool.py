from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from vos_core.baseline.copy import METHOD as COPY
from vos_core.baseline.flow import METHOD as FLOW
from vos_core.baseline.flow import FlowSegmenter
from vos_core.cli.progress import ProgressBar
from vos_core.contract import BuildRequest, MethodInfo
from vos_core.errors import ConfigError, MissingExtraError, OutputError, UsageError
from vos_core.run import device
from vos_core.run.pool import Progress, _serve, rank_share, torchrun_rank, worker_device
from vos_core.run.record import read_run
from vos_core.run.runner import run_method
from vos_core.run.work import report_work


def test_ranks_come_from_torchrun() -> None:
    assert torchrun_rank({}) == (0, 1)
    assert torchrun_rank({"RANK": "2", "WORLD_SIZE": "4"}) == (2, 4)
    for odd in ({"RANK": "1"}, {"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "2"}):
        with pytest.raises(UsageError, match="do not fit"):
            torchrun_rank(odd)


def test_ranks_share_clips_without_talking(make_clip) -> None:
    clips = [make_clip(name, frames=length) for name, length in (("a", 2), ("b", 9), ("c", 4), ("d", 3))]
    shares = [[clip.name for clip in rank_share(clips, rank, 2)] for rank in range(2)]
    assert shares == [["b"], ["c", "d", "a"]]


def test_ranks_write_one_record(make_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [make_clip(name) for name in ("a", "b", "c")]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        record = run_method(COPY, clips, output=tmp_path / "out")
    assert [clip.status for clip in record.clips] == ["done", "done", "done"]
    assert read_run(tmp_path / "out") == record
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c", "run.json"]


class Mortal(FlowSegmenter):
    """Dies with its process when a clip of five frames begins."""

    def step(self, frame, prompts=()):
        if frame.rgb.shape[0] == 50:
            os._exit(7)
        report_work("living", 1, 2)
        return super().step(frame, prompts)


def build_mortal(request: BuildRequest) -> Mortal:
    from vos_core.baseline.flow import FlowConfig

    return Mortal(FlowConfig())


def test_work_between_frames_is_shown_while_a_clip_runs(make_clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    method = MethodInfo(name="mortal", summary="for tests", build=build_mortal)
    clips, told = [make_clip("a", frames=3), make_clip("b", frames=2)], []
    with ProgressBar(clips) as bar:
        bar._pause = 0.0  # as if each step took a while

        def show(event: Progress) -> None:
            told.append(event)
            bar.update(event)

        run_method(method, clips, output=tmp_path / "out", on_progress=show)
    kinds = [(event.clip, event.kind) for event in told]
    a, b = [("a", "work"), ("a", "frame")], [("b", "work"), ("b", "frame")]
    assert kinds == [("a", "began"), *3 * a, ("a", "ended"), ("b", "began"), *2 * b, ("b", "ended")]
    assert told[1] == Progress("a", "work", 1, 2, what="living")
    assert "living 1/2" in capsys.readouterr().err
    report_work("nobody listens", 1, 2)


@pytest.mark.slow
def test_a_worker_that_dies_fails_its_clip_and_is_replaced(make_clip, tmp_path: Path) -> None:
    # The class must be importable in the worker, so this file's folder goes onto its path under its own name.
    clips = [make_clip("a"), make_clip("bad", frames=30, size=(50, 64)), make_clip("c"), make_clip("d")]
    module = tmp_path / "mortal_method.py"
    module.write_text(Path(__file__).read_text())
    import sys

    sys.path.insert(0, str(tmp_path))
    try:
        import mortal_method

        method = MethodInfo(name="mortal", summary="for tests", build=mortal_method.build_mortal)
        told: list[Progress] = []
        record = run_method(method, clips, output=tmp_path / "out", processes=2, on_progress=told.append)
    finally:
        sys.path.remove(str(tmp_path))
    assert Progress("c", "work", 1, 2, what="living") in told
    assert [clip.status for clip in record.clips] == ["done", "failed", "done", "done"]
    assert "exit code 7" in str(record.clips[1].error)


@pytest.mark.slow
def test_workers_that_cannot_build_the_method_end_the_run(make_clip, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        run_method(FLOW, [make_clip("a"), make_clip("b")], output=tmp_path / "out", processes=2, options={"presett": 1})


class Full:
    """A worker whose disk is full."""

    def run(self, clip, on_frame=None):
        raise OutputError("no space is left")


def test_what_no_further_clip_would_escape_reaches_the_parent(make_clip) -> None:
    before = signal.getsignal(signal.SIGINT)
    mine, theirs = multiprocessing.Pipe()
    mine.send(make_clip("a"))
    try:
        _serve(lambda index: Full(), 0, theirs)
    finally:
        signal.signal(signal.SIGINT, before)
    assert mine.recv() == "ready"
    assert isinstance(mine.recv(), OutputError)


def test_ray_names_its_extra_where_it_is_absent(make_clip, tmp_path: Path) -> None:
    try:
        import ray  # noqa: F401
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"vos-core\[scale\]"):
            run_method(COPY, [make_clip()], output=tmp_path / "out", scheduler="ray")
    else:
        record = run_method(COPY, [make_clip("a"), make_clip("b")], output=tmp_path / "out", scheduler="ray", processes=2)
        assert [clip.status for clip in record.clips] == ["done", "done"]


def test_cuda_workers_are_dealt_out(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [worker_device("cuda:0", index) for index in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert worker_device("cuda:1", 3) == "cuda:1"
    assert worker_device("cpu", 3) == "cpu"


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_device("auto") == "cpu"
    with pytest.raises(UsageError, match="--device cpu"):
        device.choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choose_device("auto") == "cuda:0"
    assert device.choose_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match="from 0 to 1"):
        device.choose_device("cuda:2")
    for odd in ("gpu", "cuda:x", "cpu:0", "auto:1"):
        with pytest.raises(UsageError, match="unknown device"):
            device.choose_device(odd)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: "Old GPU")
    with pytest.raises(UsageError, match="Old GPU has no bf16"):
        device.check_precision("bf16", "cuda:0")
    device.check_precision("bf16", "cpu")


def test_seeds_make_everything_repeat() -> None:
    import random

    import numpy as np
    import torch

    def draw() -> tuple[float, float, float]:
        device.seed_everything(5)
        return random.random(), float(np.random.random()), float(torch.rand(1))

    assert draw() == draw()


def test_threads_reach_torch_and_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2
    import torch

    before = cv2.getNumThreads(), torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        device.apply_threads(1)
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (1, 1)
        with pytest.raises(UsageError):
            device.apply_threads(0)
    finally:
        cv2.setNumThreads(before[0])
        torch.set_num_threads(before[1])
