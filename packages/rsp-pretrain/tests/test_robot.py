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
from rsp_pretrain.probe.embedding import CortexTransform, Embedder
from rsp_pretrain.robot.clone import CloneConfig, EmbeddingPolicy, clone, demo_vectors, summary
from rsp_pretrain.robot.demos import Episode, read_demos, write_demos
from rsp_pretrain.robot.environments import choose_expert, feel, open_environment
from rsp_pretrain.robot.policy import ClonePolicy, shuffled, train_epoch
from rsp_pretrain.robot.rollout import demonstrate, roll_out
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
        (b"\x89PNG", r"instruction was encountered, but no"),
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
    assert "other settings (lr was 0.001, now 0.1)" in other.output


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


class Line:
    """A point on a line to be pushed to a mark: an environment that needs nothing, with what the probe uses of gymnasium's."""

    action_space = type("Box", (), {"shape": (1,)})

    def __init__(self) -> None:
        self.steps = 0

    @property
    def unwrapped(self) -> Line:
        return self

    def reset(self, *, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
        self.place, self.goal = np.random.default_rng(seed).random(2)
        self.steps = 0
        return self.seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.place = float(np.clip(self.place + 0.1 * np.clip(action[0], -1, 1), 0, 1))
        self.steps += 1
        distance = abs(self.place - self.goal)
        return self.seen(), -distance, distance < 0.03, self.steps == 20, {"success": distance < 0.03}

    def render(self) -> np.ndarray:
        picture = np.full((16, 16, 3), 30, np.uint8)
        picture[:8, min(15, int(16 * self.place))] = (255, 0, 0)
        picture[8:, min(15, int(16 * self.goal))] = (0, 255, 0)
        return picture

    def seen(self) -> np.ndarray:
        return np.array([self.place, self.goal], np.float32)


def towards(environment: Line, observation: np.ndarray) -> np.ndarray:
    return np.clip((observation[1:] - observation[:1]) / 0.1, -1, 1)


def test_an_episode_ends_by_success_by_the_limit_or_by_the_horizon() -> None:
    line = Line()
    reached = roll_out(line, lambda observation, picture: towards(line, observation), seed=3)
    assert reached.success
    assert reached.steps < 20
    total, place = 0.0, line.reset(seed=3)[0][0]
    for _ in range(reached.steps):
        place += np.clip(line.goal - place, -0.1, 0.1)
        total -= abs(place - line.goal)
    assert reached.total == pytest.approx(total, abs=1e-5)
    still = [roll_out(line, lambda observation, picture: np.zeros(1), seed=3, horizon=limit) for limit in (None, 4)]
    assert [(one.success, one.steps) for one in still] == [(False, 20), (False, 4)]


def test_a_demonstration_holds_what_was_seen_before_each_action() -> None:
    line = Line()
    shown, went = demonstrate(line, towards, seed=3, proprio=1)
    assert went.success
    assert shown.images.shape == (went.steps, 16, 16, 3)
    start, _ = line.reset(seed=3)
    for image, action, felt in zip(shown.images, shown.actions, shown.proprio, strict=True):
        np.testing.assert_array_equal(image, line.render())
        np.testing.assert_allclose(felt, line.seen()[:1])
        np.testing.assert_allclose(action, towards(line, line.seen()), atol=1e-6)
        line.step(action)
    assert start[0] != pytest.approx(line.place)


def test_a_policy_gets_in_a_rollout_what_it_was_trained_on(tiny: Callable[..., RSP]) -> None:
    line, embedder, transform = Line(), Embedder(tiny(), image_size=32), CortexTransform(resize=32, crop=32)
    shown, _ = demonstrate(line, towards, seed=5, proprio=2)
    config = CloneConfig(history=3, proprio=2, hidden=(4,))
    vectors, actions = demo_vectors(embedder, [shown], transform, history=3)
    policy = ClonePolicy(vectors.shape[1], 1, (4,))
    given: list[torch.Tensor] = []
    policy.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0][0]))
    acting = EmbeddingPolicy(policy, embedder, transform, config)
    for _ in range(2):  # the second episode must know nothing of the first
        acting.reset()
        observation, _ = line.reset(seed=5)
        given.clear()
        for action in actions.numpy():
            assert acting(observation, line.render()).shape == (1,)
            observation = line.step(action)[0]
        torch.testing.assert_close(torch.stack(given), vectors, atol=1e-5, rtol=1e-5)


def test_cloning_learns_the_task_keeps_what_is_done_and_refuses_what_does_not_fit(
    tmp_path: Path, tiny: Callable[..., RSP]
) -> None:
    line, embedder, transform = Line(), Embedder(tiny(), image_size=32), CortexTransform(resize=32, crop=32)
    shown = [demonstrate(line, towards, seed=seed, proprio=2)[0] for seed in range(30)]
    config = CloneConfig(history=1, proprio=2, hidden=(32, 32), batch=32, lr=5e-3, epochs=30, every=15, rollouts=8)

    def run(episodes: list[Episode], config: CloneConfig, seeds: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
        return clone(line, embedder, episodes, tmp_path, config, seeds=seeds, info={"env": "line"}, transform=transform)

    table = run(shown, config)
    assert table["mean"] >= 75  # one that stands still succeeds in 6 % of the episodes
    assert table == json.loads((tmp_path / "probe.json").read_text())
    for seed in ("1", "2"):
        rows = json.loads((tmp_path / f"seed_{seed}.json").read_text())["evaluations"]
        assert [row["epoch"] for row in rows] == [15, 30]
        assert table["seeds"][seed] == max(row["success"] for row in rows)
    before = (tmp_path / "seed_1.json").stat().st_mtime_ns
    (tmp_path / "seed_2.json").unlink()
    assert run(shown, config) == table  # the lost seed comes out as before
    assert (tmp_path / "seed_1.json").stat().st_mtime_ns == before
    wide = Episode(shown[0].images, np.zeros((len(shown[0].actions), 2), np.float32), shown[0].proprio)
    for episodes, settings, message in (
        ([wide], config, "2 actions, the environment 1"),
        (shown, config.model_copy(update={"proprio": 1}), "2 numbers of state"),
        (shown, config.model_copy(update={"lr": 0.1}), "other settings"),
    ):
        with pytest.raises(UsageError, match=message):
            run(episodes, settings)
