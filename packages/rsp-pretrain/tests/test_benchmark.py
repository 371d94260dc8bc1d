"""The benchmark script's stages: what runs is what is clocked, and the stages add up to the whole."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rsp_pretrain.config import Architecture, Objective, PropagationConfig
from rsp_pretrain.model import RSP, Encoder
from rsp_pretrain.model.vit import initialise

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="benchmarks are part of the repository, not of the package")
TINY = Architecture(patch=16, dim=32, depth=2, heads=2, decoder_dim=32, decoder_depth=2, decoder_heads=2)
PROPAGATION = PropagationConfig(scale=(64, 112), n_last_frames=2, size_mask_neighborhood=2)
MODES = ("plain", "fp32", "bf16")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`benchmarks/rsp.py` with small frames and networks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("rsp")

    def small_encoder(path: None, *, variant: str) -> tuple[Encoder, None]:
        torch.manual_seed(0)
        encoder = Encoder(patch=TINY.patch, dim=TINY.dim, depth=TINY.depth, heads=TINY.heads)
        initialise(encoder)
        return encoder.eval(), None

    monkeypatch.setattr(module, "load_encoder", small_encoder)
    monkeypatch.setattr(module, "build_rsp", lambda variant: RSP(TINY, Objective()))
    monkeypatch.setattr(module, "PropagationConfig", lambda: PROPAGATION)
    yield module
    for name in ("rsp", "measure"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("mode", MODES)
def test_stages_of_propagation(script: Any, mode: str) -> None:
    found = script.propagation("tiny", mode, 2, 1, stages=True)
    stages = found["stages"]
    assert set(stages) == {
        "resize and normalise",
        "encoder",
        "window and affinity",
        "read of labels",
        "resize of labels",
        "write of the mask",
        "rest",
    }
    assert min(stages.values()) >= 0
    assert 0 < found["object_share"] < 1


@pytest.mark.parametrize("mode", MODES)
def test_stages_of_a_training_step(script: Any, mode: str) -> None:
    stages = script.training_stages("tiny", mode, 1, 1, 1)
    assert set(stages) == {"encoder", "decoder", "decoder, prior", "latents and losses", "backward", "optimiser"}
    assert min(stages.values()) >= 0
    assert stages["backward"] > 0


def test_both_sides_of_the_comparison_compute_the_same(script: Any) -> None:
    cells = script.training("tiny", 1, 1, 1, ("plain", "fp32"))
    assert cells["plain"]["loss"] == pytest.approx(cells["fp32"]["loss"], rel=1e-5)
    shares = [script.propagation("tiny", mode, 1, 1, stages=False)["object_share"] for mode in ("plain", "fp32")]
    assert shares[0] == pytest.approx(shares[1], rel=1e-5)


def test_a_stage_inside_another_counts_for_itself_alone(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    measure = sys.modules["measure"]
    monkeypatch.setattr(measure.time, "process_time", lambda: now[0])

    class Work:
        def inner(self) -> None:
            now[0] += 2

        def outer(self) -> None:
            now[0] += 1
            self.inner()

    clock, work = measure.StageClock(), Work()
    with clock.clocked(work, "inner", "inner"), clock.clocked(work, "outer", lambda: "outer"):
        work.outer()
        work.outer()
        with pytest.raises(ZeroDivisionError), clock.stage("failing"):
            now[0] += 8
            raise ZeroDivisionError
    work.outer()  # no longer clocked
    assert clock.seconds == {"inner": 4, "outer": 2, "failing": 8}
    assert clock.means(2) == {"inner": 2, "outer": 1, "failing": 4}
