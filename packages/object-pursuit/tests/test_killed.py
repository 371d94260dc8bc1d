"""A pursuit that is killed with SIGKILL, wherever it stands, goes on as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal

import pytest
from click.testing import CliRunner

from object_pursuit.cli import main
from object_pursuit.data.shapes_write import ShapePlan, write_shapes
from object_pursuit.fit import Fitter
from object_pursuit.pursuit.records import read_rounds
from object_pursuit.pursuit.store import PursuitStore

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals as on POSIX")


def run_and_die(words, owner, name, calls):
    """Run the command and kill this process when `owner.name` is called for the so-manieth time."""
    real, left = getattr(owner, name), iter(range(calls - 1, -1, -1))

    def killing(*args, **kwargs):
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, killing)
    main(words)


def contents(out):
    """Every file as its bytes; rounds without the time they took, and not `run.json`, which names the folder."""
    found = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    del found["run.json"]
    rounds = [json.loads(line) for line in found.pop("rounds.jsonl").splitlines()]
    return found, [{key: value for key, value in one.items() if key != "seconds"} for one in rounds]


@pytest.mark.slow
def test_a_pursuit_killed_again_and_again_equals_an_uninterrupted_one_byte_for_byte(tmp_path):
    write_shapes(tmp_path / "objects", ShapePlan(pretrain=0, stream=4, images=8, heldout=0, size=64))
    words = ["pursue", "--preset", "tiny", "--data", tmp_path / "objects/stream", "--thres", 0.35, "--seed", 1, "--no-repeats"]
    options = {"base_epochs": 10, "base_lr": 3e-3, "express_epochs": 2, "express_lr": 0.05, "batch": 4, "val_share": 0.5}
    words += [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    words = [*map(str, words), "--out"]
    done = CliRunner().invoke(main, [*words, str(tmp_path / "whole")])
    assert done.exit_code == 0, done.output

    killed, stood = tmp_path / "killed", []
    for owner, name, calls in ((PursuitStore, "commit", 2), (Fitter, "step", 20), (PursuitStore, "publish", 2)):
        child = multiprocessing.get_context("fork").Process(target=run_and_die, args=([*words, str(killed)], owner, name, calls))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        stood.append((json.loads((killed / "state.json").read_text())["round"], len(read_rounds(killed))))
    assert stood[0] == (0, 1), "the first object was decided and logged, but its state was not written"
    assert stood[1][0] == stood[1][1] > 0, "in the middle of a later object"
    assert stood[2] == (stood[1][0] + 1,) * 2, "with its state written, but nothing that follows from it"
    done = CliRunner().invoke(main, [*words, str(killed)])
    assert done.exit_code == 0, done.output
    ours, whole = contents(killed), contents(tmp_path / "whole")
    assert ours[1] == whole[1]
    assert ours[0].keys() == whole[0].keys()
    assert [name for name in whole[0] if ours[0][name] != whole[0][name]] == []
