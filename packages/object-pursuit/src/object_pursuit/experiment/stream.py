"""A pursuit over the drawn stream, by the same code as `pursue`, and what it came to on held-out pictures."""

from __future__ import annotations

import time
from pathlib import Path

from object_pursuit.config import PRESETS
from object_pursuit.data.order import SHUFFLE_SEED, object_stream
from object_pursuit.experiment.learned import Learned, claim_matrix, forgetting
from object_pursuit.experiment.outcome import Round, StreamOutcome
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.experiment.world import World
from object_pursuit.pursuit import Pursuit, PursuitOptions
from object_pursuit.pursuit import Round as PursuitRound
from object_pursuit.pursuit.options import TINY
from object_pursuit.start import prepare_start
from object_pursuit.weights import code_files, read_code, read_code_weights


def pursuit_options(plan: ExperimentPlan, *, tau: float, beta: float, seed: int) -> PursuitOptions:
    """Return the options of the experiment's pursuits."""
    return TINY.model_copy(
        update={
            "tau": tau,
            "beta": beta,
            "batch": plan.batch,
            "val_share": plan.val_share,
            "express_lr": plan.coefficient_lr,
            "express_epochs": plan.coefficient_epochs,
            "express_patience": plan.coefficient_patience,
            "base_lr": plan.base_lr,
            "base_epochs": plan.base_epochs,
            "base_patience": plan.base_patience,
            "seed": seed,
        }
    )


def run_stream(
    checkpoint: Path,
    world: World,
    plan: ExperimentPlan,
    out: Path,
    *,
    seed: int,
    tau: float,
    beta: float,
    order: int | None = None,
) -> StreamOutcome:
    """Pursue the stream, or go on with what `out` holds, and return what it came to.

    Args:
        checkpoint: joint checkpoint of the pretraining objects.
        world: the objects.
        plan: sizes.
        out: folder of the pursuit.
        seed: of everything random in it.
        tau: threshold.
        beta: weight of the memory term.
        order: seed of a random order; None = the published order.
    """
    begun = time.process_time()
    objects = {one.name: one for one in world.stream}
    strategy, shuffle = ("sequence", SHUFFLE_SEED) if order is None else ("random", order)
    stream = object_stream(sorted(objects), strategy=strategy, seed=shuffle, every=plan.seen_every)  # type: ignore[arg-type]
    pursuit = Pursuit(
        prepare_start(PRESETS[plan.preset], hypernet=checkpoint, backbone=checkpoint, bases=checkpoint),
        stream,
        objects.__getitem__,
        options=pursuit_options(plan, tau=tau, beta=beta, seed=seed),
        out=out,
    )
    rounds = pursuit.run()
    seconds = time.process_time() - begun
    state = _learned(pursuit, [one.name for one in world.pretrain])
    asked = [one.name for one in (*world.stream, *world.unseen)]
    now = forgetting(state, world.heldout, tau=tau)
    own = state.names[len(world.pretrain) :]
    matrix = claim_matrix(state, world.heldout, asked, own)
    return StreamOutcome(
        tau=tau,
        beta=beta,
        start_bases=len(world.pretrain),
        rounds=_rounds(rounds, stream, state.names),
        names=now.names,
        learned=now.learned,
        now=now.now,
        claims={name: dict(zip(own, matrix[:, place].tolist(), strict=True)) for place, name in enumerate(asked)},
        seconds=seconds,
    )


def _learned(pursuit: Pursuit, known: list[str]) -> Learned:
    """Return the codes in the pursuit's folder with the weights stored for them, and its networks as they are now."""
    assert pursuit.encoder is not None
    names = [*known, *(entry["data_dir"] for entry in pursuit.state.z_info)]
    state = Learned(pursuit.hypernet, pursuit.encoder)
    for name, path in zip(names, code_files(pursuit.store.zs), strict=True):
        stored = read_code_weights(path)
        assert stored is not None
        state.codes.append(read_code(path))
        state.names.append(name)
        state.stored.append(stored)
    return state


def _rounds(rounds: list[PursuitRound], stream: list[str], names: list[str]) -> tuple[Round, ...]:
    found = []
    for one in rounds:
        matched = None if one.matched is None else names[int(Path(one.matched).stem.removeprefix("z_"))]
        repeat = one.name in stream[: one.round - 1]
        found.append(Round(one.name, one.verdict, repeat, one.reid, matched, one.first, one.base, one.second, bases=one.bases))
    return tuple(found)
