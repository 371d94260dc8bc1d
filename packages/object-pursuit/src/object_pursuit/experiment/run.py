"""Runs the experiment seed by seed; finished pieces are kept, so an interrupted run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from object_pursuit.data.shapes import object_name
from object_pursuit.experiment.control import force_bases
from object_pursuit.experiment.few_shot import few_shot
from object_pursuit.experiment.learned import Forgetting, accuracy, forgetting
from object_pursuit.experiment.outcome import StreamOutcome
from object_pursuit.experiment.page import write_experiment_page
from object_pursuit.experiment.plan import TABLES, ExperimentPlan
from object_pursuit.experiment.pretrain import load_learned, pretrain, save_learned
from object_pursuit.experiment.results import SeedResult, Store
from object_pursuit.experiment.stream import run_stream
from object_pursuit.experiment.world import draw_world
from vos_core.errors import UsageError

Tell = Callable[[str], None]
PAGE = "index.html"


def run_experiment(
    out: Path, plan: ExperimentPlan, *, seeds: Sequence[int], tables: Sequence[int] = TABLES, tell: Tell | None = None
) -> list[SeedResult]:
    """Return the results of every seed and write `index.html` with one folder of pieces per seed to `out`.

    Args:
        out: made if absent; an experiment of the same plan there is continued.
        plan: sizes and thresholds.
        seeds: each gives a world, a network and a stream of its own.
        tables: which of the paper's tables are made; each costs further pursuits.
        tell: called with what begins.

    Raises:
        UsageError: no seed, a table that the paper does not have, or a folder with something else in it.
        OutputError: a file that cannot be written.
    """
    unknown = sorted(set(tables) - set(TABLES))
    if unknown or not seeds or len(set(seeds)) < len(seeds):
        raise UsageError(f"seeds {list(seeds)}, tables {list(tables)}", expected=f"different seeds, tables among {list(TABLES)}")
    store = Store(out, plan)
    say = tell or (lambda _: None)
    results = [_run_seed(store, out, plan, seed, tables, say) for seed in seeds]
    first = plan.pretrain_objects + plan.stream_objects
    unseen = [object_name(i) for i in range(first, plan.objects)]
    write_experiment_page(out / PAGE, results, plan, tables=sorted(set(tables)), unseen=unseen)
    return results


def _run_seed(store: Store, out: Path, plan: ExperimentPlan, seed: int, tables: Sequence[int], say: Tell) -> SeedResult:
    world = draw_world(plan, seed)
    checkpoint = out / f"seed_{seed}" / "pretrained.pth"
    if not checkpoint.is_file():
        say(f"seed {seed}: joint pretraining on {plan.pretrain_objects} objects")
        save_learned(checkpoint, pretrain(world, plan, seed=seed))
    start = load_learned(checkpoint, [one.name for one in world.pretrain])
    names = [one.name for one in world.pretrain]

    def stream(tau: float, beta: float, *, order: int | None = None) -> StreamOutcome:
        label = f"seed_{seed}/stream_tau_{tau:g}_beta_{beta:g}" + ("" if order is None else f"_order_{order}")

        def pursue() -> StreamOutcome:
            say(f"seed {seed}: stream at threshold {tau:g}, beta {beta:g}" + ("" if order is None else f", random order {order}"))
            return run_stream(checkpoint, world, plan, out / label, seed=seed, tau=tau, beta=beta, order=order)

        return store.stream(label, pursue)

    def control(name: str, beta: float) -> Forgetting:
        say(f"seed {seed}: {plan.forced_bases} forced bases with beta {beta:g}")
        learned = force_bases(start, world.stream[: plan.forced_bases], plan, beta=beta, seed=seed)
        return forgetting(learned, world.heldout, tau=plan.tau)

    result = SeedResult(
        seed,
        pretrained=store.piece(
            f"seed_{seed}/pretrained", lambda: {name: accuracy(start, world.heldout, [name]) for name in names}
        ),
        stream=stream(plan.tau, plan.beta),
        control={
            name: store.forgetting(f"seed_{seed}/control_{name}", lambda name=name, beta=beta: control(name, beta))  # type: ignore[misc]
            for name, beta in (("memory", plan.beta), ("none", 0.0))
        },
    )
    if {1, 2, 3} & set(tables):
        result.taus = {tau: stream(tau, plan.beta) for tau in plan.taus}
    if 4 in tables:

        def shots() -> dict[str, dict[str, float]]:
            say(f"seed {seed}: few-shot fits")
            return few_shot(start.copy(), torch.stack(start.codes), world, plan, seed=seed)

        result.shots = store.piece(f"seed_{seed}/shots", shots)
    if 5 in tables:
        result.orders = [stream(plan.order_tau, plan.beta, order=order) for order in range(plan.orders)]
    if 6 in tables:
        result.betas = {beta: stream(plan.order_tau, beta) for beta in plan.betas}
    return result
