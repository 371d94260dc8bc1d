"""Behaviour cloning: demonstrations, a policy that learns, rollouts, the commands, and what is said when software is absent."""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from rsp_pretrain.cli import main
from rsp_pretrain.model import RSP
from rsp_pretrain.robot.clone import CloneConfig, summary
from rsp_pretrain.robot.demos import Episode, read_demos, write_demos
from rsp_pretrain.robot.environments import choose_expert, feel, open_environment
from rsp_pretrain.robot.policy import ClonePolicy, shuffled, train_epoch
from rsp_pretrain.robot.tasks import TASKS
from vos_core.errors import LayoutError, UsageError

RUN = CliRunner().invoke
POINT = "rsp_pretrain/PointReach-v0"


def episode(length: int, seed: int = 0, state: int = 5) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        rng.integers(0, 256, (length, 8, 9, 3), dtype=np.uint8),
        rng.random((length, 2)).astype(np.float32),
        rng.random((length, state)).astype(np.float32),
    )


def test_demonstrations_come_back(tmp_path: Path) -> None:
    written = [episode(3), episode(1, 1), episode(4, 2)]
    write_demos(tmp_path / "d.npz", written, {"env": "x"})
    for one, other in zip(read_demos(tmp_path / "d.npz", proprio=2), written, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_array_equal(one.proprio, other.proprio[:, :2])
    with pytest.raises(LayoutError, match="5 numbers of state"):
        read_demos(tmp_path / "d.npz", proprio=6)
    with pytest.raises(UsageError, match="at least one"):
        write_demos(tmp_path / "d.npz", [])
    with pytest.raises(LayoutError, match="images"):
        Episode(np.zeros((2, 4, 4, 3), np.uint8), np.zeros((3, 1), np.float32), np.zeros((2, 0), np.float32))


class Payload:
    def __reduce__(self) -> Any:
        return (print, ("code from a pickle",))


def test_cortexbench_pickles_are_read_without_running_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = episode(4)
    path = {
        "images": one.images,
        "actions": one.actions.astype(np.float64),
        "rewards": np.ones(4),
        "observations": np.arange(24.0).reshape(4, 6),
        "env_infos": {"gripper_proprio": one.proprio[:, :4]},
    }
    for protocol in (2, 4):
        (tmp_path / "paths.pickle").write_bytes(pickle.dumps([path], protocol=protocol))
        (found,) = read_demos(tmp_path / "paths.pickle", proprio="gripper_proprio")
        np.testing.assert_array_equal(found.images, one.images)
        np.testing.assert_array_equal(found.proprio, one.proprio[:, :4])
    (found,) = read_demos(tmp_path / "paths.pickle", proprio=2)
    np.testing.assert_array_equal(found.proprio[:, 0], [0, 6, 12, 18])
    for content, message in (
        (pickle.dumps([Payload()]), "builtins.print"),
        (pickle.dumps([{"actions": [1]}]), "images"),
        (b"torn", "cannot be read"),
        (pickle.dumps([]), "no demonstration"),
    ):
        (tmp_path / "bad.pickle").write_bytes(content)
        with pytest.raises(LayoutError, match=message):
            read_demos(tmp_path / "bad.pickle")
    assert "code from a pickle" not in capsys.readouterr().out


def test_a_policy_learns_a_linear_rule() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(200, 6) * 3 + 5
    actions = vectors[:, :2] * 0.1 - vectors[:, 2:3] * 0.05
    policy = ClonePolicy(6, 2, (32, 32))
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    losses = [train_epoch(policy, optimizer, vectors, actions, batch=64, generator=generator) for _ in range(40)]
    assert losses[-1] < losses[0] / 20
    assert [len(part) for part in shuffled(9, 4, generator)] == [4, 4]  # batch norm cannot take a single sample


def test_interval() -> None:
    assert summary([3.0]) == {"mean": 3.0, "interval": 0.0}
    found = summary([1.0, 2.0, 3.0])
    assert found["interval"] == pytest.approx(1.96 / 3**0.5)


def test_tasks_say_what_cannot_be_repeated() -> None:
    listed = RUN(main, ["probe", "tasks"])
    assert listed.exit_code == 0
    assert "CoppeliaSim" in listed.output
    assert len(json.loads(RUN(main, ["probe", "tasks", "--json"]).stdout)) == len(TASKS) == 24
    from vos_core.config import build_config

    assert build_config(CloneConfig, TASKS["metaworld-hammer"].config).horizon == 500
    assert build_config(CloneConfig, TASKS["trifinger-reach"].config).hidden == (2000, 2000)


def test_absent_software_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "gymnasium" or name.endswith("point_reach")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    refused = RUN(main, ["probe", "collect", "--env", POINT, "--output", str(tmp_path / "d.npz")])
    assert refused.exit_code == 2
    assert 'pip install "rsp-pretrain[robot]"' in refused.output


@pytest.fixture
def weights(tmp_path: Path, tiny: Callable[..., RSP]) -> str:
    path = tmp_path / "tiny.pth"
    torch.save({"model": tiny().state_dict()}, path)
    return str(path)


def test_the_toy_task_from_collecting_to_cloning(tmp_path: Path, weights: str) -> None:
    pytest.importorskip("gymnasium")
    demos, out = tmp_path / "demos.npz", tmp_path / "out"
    done = RUN(main, ["probe", "collect", "--env", POINT, "--episodes", "6", "--proprio", "4", "--output", str(demos), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["episodes"] == 6
    base = ["probe", "clone", "--env", POINT, "--demos", str(demos), "--weights", weights, "--resize", "64", "--crop", "64"]
    base += ["--proprio", "4", "--epochs", "30", "--every", "15", "--rollouts", "4", "--hidden", "32,32", "--output", str(out)]
    done = RUN(main, [*base, "--seeds", "1,2"])
    assert done.exit_code == 0, done.output
    table = json.loads((out / "probe.json").read_text())
    assert set(table["seeds"]) == {"1", "2"}
    assert 0 <= table["mean"] <= 100
    rows = json.loads((out / "seed_1.json").read_text())["evaluations"]
    assert [row["epoch"] for row in rows] == [15, 30]
    assert rows[1]["loss"] < rows[0]["loss"]
    before = (out / "seed_1.json").stat().st_mtime_ns
    again = RUN(main, [*base, "--seeds", "1,2", "--json"])
    assert json.loads(again.stdout)["seeds"] == table["seeds"]
    assert (out / "seed_1.json").stat().st_mtime_ns == before
    other = RUN(main, [*base, "--seeds", "1", "--lr", "0.1"])
    assert other.exit_code == 2
    assert "other settings (config)" in other.output


def test_environments_and_experts_that_are_none(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium")
    for name, message in (
        ("NoSuch-v0", "gymnasium id"),
        ("no_such_module:X-v0", "cannot be imported"),
        ("CartPole-v1", "box of numbers|cannot be drawn|cannot be made"),
    ):
        with pytest.raises(Exception, match=message):
            open_environment(name)
    with pytest.raises(UsageError, match="--env-arg"):
        open_environment(POINT, {"colour": "red"})
    for given, message in ((None, "no built-in expert"), ("nowhere:act", "cannot be imported"), ("json", "cannot be imported")):
        with pytest.raises(UsageError, match=message):
            choose_expert("Other-v0", given)
    assert choose_expert("Other-v0", "json:dumps") is json.dumps
    with pytest.raises(UsageError, match="at most 3"):
        feel({"observation": np.zeros(3)}, 4)
    environment = open_environment(POINT)
    assert environment.render().shape == (64, 64, 3)
    environment.close()
