"""The loop on a toy recipe: resuming, ranks, accumulation, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vos_core.errors import InterruptError, UsageError, VosError
from vos_core.training.batches import BatchPlan, batch_stream
from vos_core.training.distributed import Ranks, ranks_from_environment
from vos_core.training.ema import Ema, warming_decay
from vos_core.training.logging import RunLog
from vos_core.training.loop import LoopOptions, StepLoss, TrainingState, run_loop
from vos_core.training.optim import build_optimizer, parameter_groups
from vos_core.training.schedule import multistep

ALONE = Ranks()


class Points:
    """Pairs (x, w.x + noise) drawn from the sample's own generator."""

    def __len__(self) -> int:
        return 24

    def draw(self, index: int, *, epoch: int, rng: np.random.Generator) -> Any:
        x = torch.from_numpy(rng.standard_normal(3)).float()
        return x, x.sum() + float(rng.normal(scale=0.1))


def squared_error(model: nn.Module, batch: Any, step: int) -> StepLoss:
    x, y = batch
    loss = ((model(x).squeeze(1) - y) ** 2).mean()
    return StepLoss(loss, {"largest": y.max()})


def train(
    folder: Path, steps: int, *, stop_at: int | None = None, batch: int = 4, ranks: Ranks | None = None, **options: Any
) -> Any:
    """Train the toy for `steps`; `stop_at` ends this call early, as a kill would."""
    ranks = ranks or Ranks()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Dropout(options.pop("dropout", 0.5)), nn.Linear(8, 1))
    groups = parameter_groups(model.named_parameters(), lr=0.05, weight_decay=1e-4)
    settings = LoopOptions(steps=stop_at or steps, save_every=5, log_every=1, fingerprint={"batch": batch}, **options)
    ema = Ema(model, warming_decay(0.9))
    state = TrainingState(
        model,
        build_optimizer("adam", groups),
        multistep([6, 12]),
        options=settings,
        folder=folder,
        ranks=ranks,
        ema=ema,
    )
    state.resume()
    plan = BatchPlan(len(Points()), batch, rank=ranks.rank, world=ranks.world, start=state.step * settings.accumulate)
    log = RunLog(folder, total=steps, start=state.step, active=ranks.main, progress=False)
    run_loop(state, batch_stream(Points(), plan), squared_error, log)
    log.close()
    return state


def weights(state: TrainingState) -> list[torch.Tensor]:
    assert state.ema is not None
    return [*state.model.state_dict().values(), *state.ema.average.values()]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_ends_with_the_unbroken_runs_bits(tmp_path: Path, precision: Any) -> None:
    whole = train(tmp_path / "whole", 17, precision=precision)
    train(tmp_path / "broken", 17, stop_at=10, precision=precision)
    torch.manual_seed(99)  # what a new process would find
    resumed = train(tmp_path / "broken", 17, precision=precision)
    assert resumed.step == whole.step == 17
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    rows = [json.loads(line) for line in (tmp_path / "broken/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 18))


def test_old_checkpoints_go_and_the_newest_stay(tmp_path: Path) -> None:
    train(tmp_path, 17)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["checkpoint_15.pth", "checkpoint_17.pth"]


def test_another_setting_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    train(tmp_path, 5)
    with pytest.raises(UsageError, match="batch=4"):
        train(tmp_path, 10, batch=8)


def test_accumulated_small_batches_equal_one_large_batch(tmp_path: Path) -> None:
    large = train(tmp_path / "large", 6, batch=8, dropout=0.0)
    small = train(tmp_path / "small", 6, batch=4, accumulate=2, dropout=0.0)
    for a, b in zip(weights(large), weights(small), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_the_loss_falls_and_the_rate_follows_its_schedule(tmp_path: Path) -> None:
    train(tmp_path, 17, dropout=0.0)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert np.mean([row["loss"] for row in rows[-5:]]) < 0.5 * np.mean([row["loss"] for row in rows[:3]])
    assert [rows[i]["lr"] for i in (0, 6, 12)] == pytest.approx([0.05, 0.005, 0.0005])


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    free, tied = (train(tmp_path / str(bound), 1, clip_norm=bound) for bound in (None, 1e-12))
    gradient = [sum(float(p.grad.norm()) for p in state.model.parameters() if p.grad is not None) for state in (free, tied)]
    assert gradient[1] < 1e-11 < gradient[0]


def test_a_loss_that_is_not_finite_names_the_step(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    options = LoopOptions(steps=3)
    optimizer = build_optimizer("sgd", parameter_groups(model.named_parameters(), lr=1.0, weight_decay=0.0))
    state = TrainingState(model, optimizer, multistep([]), options=options, folder=tmp_path, ranks=Ranks())
    bad = iter([(torch.full((2, 3), torch.inf), torch.zeros(2))] * 3)
    with pytest.raises(VosError, match="step 0"):
        run_loop(state, bad, squared_error, RunLog(tmp_path, total=3, progress=False))


def test_ctrl_c_saves_the_step_and_the_rerun_goes_on(tmp_path: Path) -> None:
    def interrupt_at_7(model: nn.Module, batch: Any, step: int) -> StepLoss:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)
        return squared_error(model, batch, step)

    model = nn.Linear(3, 1)
    optimizer = build_optimizer("sgd", parameter_groups(model.named_parameters(), lr=0.01, weight_decay=0.0))
    state = TrainingState(model, optimizer, multistep([]), options=LoopOptions(steps=20), folder=tmp_path, ranks=Ranks())
    with pytest.raises(InterruptError, match="saved at step 8"):
        run_loop(state, batch_stream(Points(), BatchPlan(24, 4)), interrupt_at_7, RunLog(tmp_path, total=20, progress=False))
    assert (tmp_path / "checkpoint_8.pth").is_file()


RANK_SCRIPT = """
    import sys
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from test_loop import train
    from vos_core.training.distributed import ranks_from_environment
    with ranks_from_environment() as ranks:
        state = train(Path(sys.argv[2]), 8, batch=2, dropout=0.0, ranks=ranks, accumulate=2)
        if ranks.main:
            torch.save(state.model.state_dict(), Path(sys.argv[2]) / "ended.pt")
"""


@pytest.mark.parametrize("launcher", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_would_each_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(launcher, "1")
    with ranks_from_environment() as ranks:
        assert ranks.world == 1
    monkeypatch.setenv(launcher, "4")
    with pytest.raises(UsageError, match=f"4 processes were started .{launcher}."), ranks_from_environment():
        pass


def test_two_ranks_give_the_weights_of_one_process(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(RANK_SCRIPT))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29613"]
    subprocess.run(
        [*launch, str(script), str(Path(__file__).parent), str(tmp_path / "two")],
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    single = train(tmp_path / "one", 8, batch=4, dropout=0.0, accumulate=2)
    double = torch.load(tmp_path / "two/ended.pt", weights_only=True)
    for name, value in single.model.state_dict().items():
        torch.testing.assert_close(double[name], value, rtol=1e-5, atol=1e-6)


def test_progress_in_a_log_file_is_a_line_now_and_then(tmp_path, capsys):
    log = RunLog(tmp_path, total=200)
    for _ in range(200):
        time.sleep(0.002)
        log.step()
    log.close()
    assert capsys.readouterr().err.count("%|") <= 2, "its first and its last"
