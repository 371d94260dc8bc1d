"""The offline experiment: its pieces on a world of seconds, and (slow) its claims at full size for two seeds."""

from __future__ import annotations

import json
import random

import pytest
import torch
from click.testing import CliRunner

from object_pursuit.cli import main
from object_pursuit.data.shapes import object_name
from object_pursuit.experiment.control import force_bases
from object_pursuit.experiment.learned import Forgetting, accuracy, claim_matrix, forgetting
from object_pursuit.experiment.outcome import Round, StreamOutcome, claimed_share, recall
from object_pursuit.experiment.page import spread
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.experiment.pretrain import load_learned, pretrain, save_learned
from object_pursuit.experiment.results import SeedResult, Store
from object_pursuit.experiment.run import run_experiment
from object_pursuit.experiment.world import draw_world
from vos_core.errors import UsageError

SMALL = ExperimentPlan(
    pretrain_objects=2, stream_objects=3, unseen_objects=2, images=8, heldout=4, joint_epochs=1, batch=4, seen_every=2,
    coefficient_epochs=1, base_epochs=1, forced_bases=1, forced_epochs=1, taus=(0.5,), betas=(0.0,), orders=1, shots=(1,),
    shot_objects=1, shot_steps=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    return draw_world(SMALL, 0)


@pytest.fixture(scope="module")
def start(world):
    return pretrain(world, SMALL, seed=0)


def outcome(rounds, *, names=("p", "a", "b"), learned=(0.9, 0.8, 0.7), now=(0.9, 0.75, 0.4), claims=None, tau=0.6):
    return StreamOutcome(tau, 0.04, 1, tuple(rounds), names, learned, now, claims or {}, 1.0)


def met(name, verdict, *, repeat=False, bases=1):
    return Round(name, verdict, repeat, None, None, None, None, None, bases)


def test_worlds_have_their_objects(world):
    assert [one.name for one in world.pretrain] == ["obj_000", "obj_001"]
    assert [one.name for one in (*world.stream, *world.unseen)] == [f"obj_{i:03d}" for i in range(2, 7)]
    assert set(world.heldout) == {object_name(i) for i in range(7)}
    assert not torch.equal(world.heldout["obj_000"].images, world.pretrain[0].samples.images[:4])


def test_pretraining_is_a_joint_checkpoint(world, start, tmp_path):
    again = pretrain(world, SMALL, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(start.codes, again.codes, strict=True))
    save_learned(tmp_path / "joint.pth", start)
    loaded = load_learned(tmp_path / "joint.pth", start.names)
    for key, value in start.stored[0].items():
        torch.testing.assert_close(loaded.stored[0][key], value)
    assert forgetting(loaded, world.heldout, tau=0.5) == forgetting(start, world.heldout, tau=0.5)


def test_forgetting_is_measured_against_stored_weights(world, start):
    same = forgetting(start, world.heldout, tau=0.5)
    assert same.drop == pytest.approx(0, abs=1e-6)
    assert same.forgotten == ()
    broken = start.copy()
    for parameter in broken.hypernet.parameters():
        parameter.data.mul_(0)
    lost = forgetting(broken, world.heldout, tau=0.0)
    assert lost.learned == pytest.approx(same.learned)
    assert lost.now != pytest.approx(same.now)
    assert start.hypernet.blocks is not broken.hypernet.blocks
    assert Forgetting(("a", "b"), (0.8, 0.4), (0.3, 0.1), 0.5).forgotten == ("a",)


def test_forced_bases_leave_the_start_alone(world, start):
    before = {key: value.clone() for key, value in start.hypernet.state_dict().items()}
    for beta in (0.04, 0.0):
        after = force_bases(start, world.stream[:1], SMALL, beta=beta, seed=0)
        assert after.names == ["obj_000", "obj_001", "obj_002"]
        assert any(not torch.equal(value, before[key]) for key, value in after.hypernet.state_dict().items())
    assert all(torch.equal(value, start.hypernet.state_dict()[key]) for key, value in before.items())
    assert len(start.codes) == 2


def test_memory_keeps_generated_weights_nearer(world, start):
    """The effect of the memory term, in numbers that one short fit shows."""
    plan = SMALL.model_copy(update={"forced_epochs": 8, "base_lr": 1e-3})

    def moved(beta):
        after = force_bases(start, world.stream[:1], plan, beta=beta, seed=0)
        with torch.no_grad():
            return sum(
                float((after.hypernet(code)[key] - stored[key]).norm())
                for code, stored in zip(start.codes, start.stored, strict=True)
                for key in stored
            )

    assert moved(0.04) < 0.5 * moved(0.0)


def test_claims_and_accuracy(world, start):
    matrix = claim_matrix(start, world.heldout, ["obj_000", "obj_003", "obj_001"], ["obj_001", "obj_000"])
    assert matrix.shape == (2, 3)
    assert accuracy(start, world.heldout, ["obj_001"]) == pytest.approx(float(matrix[0, 2]), abs=2e-3)
    matrix = matrix[1:]
    assert claim_matrix(start, world.heldout, ["obj_000"], []).shape == (0, 1)
    assert accuracy(start, world.heldout, ["obj_000"]) == pytest.approx(float(matrix[0, 0]), abs=2e-3)
    assert accuracy(start, world.heldout, ["obj_000", "obj_005"]) == pytest.approx(float(matrix[0, 0]) / 2, abs=2e-3)


def test_what_a_stream_came_to():
    rounds = [met("a", "new_base", bases=2), met("b", "expressed", bases=2), met("a", "seen", repeat=True), met("c", "discarded")]
    run = outcome(rounds, claims={"a": {"a": 0.9, "b": 0.2}, "b": {"a": 0.65, "b": 0.6}, "x": {"a": 0.1, "b": 0.7}})
    assert (run.new_bases, len(run.first_meetings), len(run.repeats)) == (1, 3, 1)
    assert run.stream_names == ("a", "b")
    assert run.known_repeats == run.repeats
    again = outcome([met("a", "discarded"), met("a", "new_base", repeat=True), met("a", "seen", repeat=True)])
    assert again.known_repeats == again.rounds[2:], "what was thrown away cannot be recognised"
    assert run.forgotten == ("b",)
    assert run.accuracy == pytest.approx((0.75 + 0.4) / 2)
    assert run.drop == pytest.approx((2.4 - 2.05) / 3)
    assert run.claimed_by("b") == (0.65, "a")
    assert recall(run, 0.6) == (1.0, 0.5)
    assert recall(run, 0.8) == (0.5, 1.0)
    assert claimed_share(run, ["x"], 0.5, codes=1) == 0.0
    assert claimed_share(run, ["x"], 0.5, codes=2) == 1.0
    stored = json.loads(json.dumps(run.to_json()))
    assert json.loads(json.dumps(StreamOutcome.from_json(stored).to_json())) == stored


def seed_result(**changes):
    good = {
        "stream": outcome([met("a", "new_base"), met("b", "expressed"), met("a", "seen", repeat=True)]),
        "control": {
            "memory": Forgetting(("p", "a"), (0.9, 0.8), (0.9, 0.79), 0.7),
            "none": Forgetting(("p", "a"), (0.9, 0.8), (0.2, 0.79), 0.7),
        },
    }
    return SeedResult(0, {"p": 0.9}, **{**good, **changes})


def test_claims_can_fail():
    assert all(holds for _, holds, _ in seed_result().checks())
    kept, lost = seed_result().control["memory"], seed_result().control["none"]
    many = outcome([met("a", "new_base"), met("b", "new_base"), met("a", "seen", repeat=True)])
    missed = outcome([met("a", "expressed"), met("a", "expressed", repeat=True)])
    for place, changes in enumerate(
        (
            {"stream": many},
            {"stream": missed},
            {"control": {"memory": lost, "none": lost}},
            {"control": {"memory": kept, "none": kept}},
        )
    ):
        assert [holds for _, holds, _ in seed_result(**changes).checks()] == [k != place for k in range(4)]


def test_spread():
    assert spread([0.5]) == "0.50"
    assert spread([0.5, 0.7]) == "0.60 ± 0.14"


def test_stores_keep_pieces_and_refuse_other_plans(tmp_path):
    store = Store(tmp_path / "out", SMALL)
    value = random.random()
    assert store.piece("a/b", lambda: value) == value
    assert Store(tmp_path / "out", SMALL).piece("a/b", lambda: None) == value
    with pytest.raises(UsageError, match=r"another plan \(tau\)"):
        Store(tmp_path / "out", SMALL.model_copy(update={"tau": 0.9}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(UsageError, match="holds no experiment"):
        Store(tmp_path / "full", SMALL)


def test_whole_experiment_in_small_and_again(tmp_path):
    told = []
    results = run_experiment(tmp_path / "out", SMALL, seeds=(3,), tell=told.append)
    assert len(told) == 1 + 1 + 2 + 1 + 1 + 1 + 1
    page = (tmp_path / "out/index.html").read_text()
    for words in (
        "What must hold",
        "Bases against objects",
        "Re-identification",
        "Forgetting",
        "Accuracy",
        *(f"Table {n}:" for n in range(1, 7)),
    ):
        assert words in page
    stream = results[0].stream
    assert len(stream.rounds) == 3 + 1
    assert [one.repeat for one in stream.rounds] == [False, False, True, False]
    assert {one.verdict for one in stream.rounds} <= {"seen", "expressed", "redundant", "new_base", "discarded"}
    assert set(stream.claims) == {object_name(i) for i in range(2, 7)}
    assert all(tuple(row) == stream.stream_names for row in stream.claims.values()), "codes of pretraining are left out"
    assert sum(one.verdict in ("expressed", "redundant", "new_base") for one in stream.rounds) == len(stream.names) - 2
    assert results[0].shots.keys() == {"bases", "free"}
    # An interrupted run goes on: with a piece lost, only that one is made again, from the pursuit that is still there.
    told.clear()
    (tmp_path / "out/seed_3/stream_tau_0.5_beta_0.04.json").unlink()
    again = run_experiment(tmp_path / "out", SMALL, seeds=(3,), tell=told.append)
    assert told == ["seed 3: stream at threshold 0.5, beta 0.04"]
    assert again[0].taus[0.5].rounds == results[0].taus[0.5].rounds
    assert again[0].stream.to_json() == results[0].stream.to_json()


def run(*args):
    return CliRunner().invoke(main, ["experiment", *map(str, args)])


def test_command(tmp_path):
    sets = [
        part
        for key, value in SMALL.model_dump().items()
        for part in ("--set", f"{key}={list(value) if isinstance(value, tuple) else value}")
    ]
    done = run("--out", tmp_path / "out", "--seeds", "0", "--tables", "none", "--json", "--check", *sets)
    assert done.exit_code in (0, 1), done.output
    claims = json.loads(done.stdout)["claims"]
    assert len(claims) == 4
    assert done.exit_code == (0 if all(claim["holds"] for claim in claims) else 1)
    assert "Table 1" not in (tmp_path / "out/index.html").read_text()
    assert run("--out", tmp_path / "x", "--seeds", "a").exit_code == 2
    assert run("--out", tmp_path / "x", "--seeds", "0,0").exit_code == 2
    assert run("--out", tmp_path / "x", "--tables", "7").exit_code == 2
    assert "unknown option 'taux'" in run("--out", tmp_path / "x", "--set", "taux=1").stderr
    assert "must not be empty" in run("--out", tmp_path / "x", "--set", "taus=[]").stderr


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("object_pursuit.experiment.run.pretrain", interrupted)
    sets = [word for key in ("pretrain_objects", "stream_objects", "unseen_objects") for word in ("--set", f"{key}=2")]
    done = run("--out", tmp_path / "out", "--tables", "none", *sets)
    assert done.exit_code == 130
    assert "Run the same command again" in done.stderr


@pytest.mark.long
def test_claims_hold_for_two_seeds(tmp_path):
    results = run_experiment(tmp_path / "out", ExperimentPlan(), seeds=(0, 1), tables=())
    for result in results:
        assert all(holds for _, holds, _ in result.checks()), result.checks()
        assert len(result.stream.rounds) == 11
