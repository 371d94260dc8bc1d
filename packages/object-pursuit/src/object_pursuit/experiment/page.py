"""The experiment's page: its claims with their figures, then the paper's tables in small, mean and deviation over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from object_pursuit.experiment.outcome import StreamOutcome, claimed_share, recall
from object_pursuit.experiment.plan import ExperimentPlan
from object_pursuit.experiment.results import SeedResult
from object_pursuit.figures import charts_of
from vos_core.report.charts import COLOURS, Chart
from vos_core.report.sheet import Section, Table, write_sheet

Results = Sequence[SeedResult]


def write_experiment_page(
    path: Path, results: Results, plan: ExperimentPlan, *, tables: Sequence[int], unseen: Sequence[str]
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        results: one per seed.
        plan: that they follow.
        tables: which of the paper's tables were made.
        unseen: names of the objects that no pursuit met.
    """
    makers: dict[int, Callable[[Results, ExperimentPlan, Sequence[str]], Section]] = {
        1: _table1, 2: _table2, 3: _table3, 4: _table4, 5: _table5, 6: _table6,
    }  # fmt: skip
    sections = [_claims(results), _growth(results), _recognition(results), _forgetting(results), _accuracy(results)]
    sections += [makers[number](results, plan, unseen) for number in tables]
    seeds = ", ".join(str(result.seed) for result in results)
    lead = (
        f"A network pretrained on {plan.pretrain_objects} drawn objects meets {plan.stream_objects} more, one after the other. "
        f"Seeds {seeds}; scores are Dice on pictures that no training saw. Trained in about a minute on one CPU core: "
        "these numbers show that the method does what the paper says, they are not the paper's numbers."
    )
    write_sheet(path, sections, title="Object pursuit in small", lead=lead)


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over seeds; the value alone for one seed.

    >>> spread([0.5, 0.7])
    '0.60 ± 0.14'
    """
    mean = statistics.fmean(values)
    return f"{mean:.2f}" if len(values) < 2 else f"{mean:.2f} ± {statistics.stdev(values):.2f}"


def _claims(results: Results) -> Section:
    rows = [
        (claim, str(result.seed), "holds" if holds else "does not hold", figures)
        for result in results
        for claim, holds, figures in result.checks()
    ]
    rows.sort(key=lambda row: row[0])
    return Section("What must hold", tables=(Table(("claim", "seed", "", "figures"), tuple(rows)),))


def _growth(results: Results) -> Section:
    traces, rows = [], []
    for place, result in enumerate(results):
        stream, met, curve = result.stream, 0, [(0, result.stream.start_bases)]
        for one in stream.rounds:
            met += not one.repeat
            if not one.repeat:
                curve.append((met, one.bases))
        line = {"color": COLOURS[place % len(COLOURS)], "shape": "hv"}
        values = {"x": [x for x, _ in curve], "y": [y for _, y in curve], "name": f"seed {result.seed}", "line": line}
        traces.append(("Scatter", {**values, "mode": "lines"}))
        kinds = ("expressed", "redundant", "new_base", "seen", "discarded")
        rows.append((f"seed {result.seed}", *(str(stream.count(kind)) for kind in kinds), str(curve[-1][1])))
    first = results[0].stream
    straight = [first.start_bases, first.start_bases + len(first.first_meetings)]
    dashed = {"color": "#999999", "dash": "dot"}
    traces.append(
        ("Scatter", {"x": [0, len(first.first_meetings)], "y": straight, "name": "a base each", "mode": "lines", "line": dashed})
    )
    table = Table(
        ("", "expressed", "redundant", "new bases", "claimed as seen", "discarded", "bases at the end"),
        tuple(rows),
        f"What became of new objects at threshold {first.tau}.",
    )
    summary = "Bases after each new object; the dotted line is a base for every object."
    return Section(
        "Bases against objects", tables=(table,), charts=charts_of("Bases", traces, summary=summary, x="new objects", y="bases")
    )


def _recognition(results: Results) -> Section:
    rows = []
    for result in results:
        stream = result.stream
        seen = [one for one in stream.known_repeats if one.verdict == "seen"]
        own = sum(one.matched == one.name for one in seen)
        share, identity = recall(stream, stream.tau)
        rows.append(
            (
                f"seed {result.seed}",
                f"{len(seen)} of {len(stream.known_repeats)}",
                f"{own} of {len(seen)}",
                f"{share:.2f}",
                f"{identity:.2f}",
            )
        )
    text = (
        "Identity is the code with the best Dice, and can name an object of a neighbouring hue: being recognised and being "
        "recognised as oneself are two questions. The last two columns ask all learned objects of the stream, held out."
    )
    columns = ("", "repeats recognised", "as themselves", "recall, held out", "identity, held out")
    return Section("Re-identification", text=(text,), tables=(Table(columns, tuple(rows)),))


def _forgetting(results: Results) -> Section:
    charts: list[Chart] = []
    rows = []
    for result in results:
        kept, lost = result.control["memory"], result.control["none"]
        bars = [
            ("when learned", kept.learned, "#7f7f7f"),
            ("now, with memory", kept.now, COLOURS[0]),
            ("now, without", lost.now, COLOURS[1]),
        ]
        traces = [
            ("Bar", {"x": list(kept.names), "y": list(values), "name": name, "marker": {"color": tint}})
            for name, values, tint in bars
        ]
        summary = f"With memory {sum(kept.now) / len(kept.now):.2f} on average, without {sum(lost.now) / len(lost.now):.2f}."
        charts += charts_of(f"Held-out Dice per object, seed {result.seed}", traces, summary=summary, y="Dice")
        for name, one in (("memory", kept), ("none", lost)):
            learned, now = sum(one.learned) / len(one.names), sum(one.now) / len(one.names)
            rows.append(
                (f"seed {result.seed}, {name}", f"{learned:.3f}", f"{now:.3f}", f"{len(one.forgotten)} of {len(one.names)}")
            )
    rows += [
        (
            f"seed {result.seed}, stream",
            f"{sum(result.stream.learned) / len(result.stream.names):.3f}",
            f"{sum(result.stream.now) / len(result.stream.names):.3f}",
            f"{len(result.stream.forgotten)} of {len(result.stream.names)}",
        )
        for result in results
    ]
    text = (
        "New bases are forced one after the other from the pretrained state, with the memory term and without. The stream itself "
        "is no test of it: an object that is expressed by bases never changes the hypernetwork."
    )
    columns = ("", "Dice when learned", "Dice now", "forgotten")
    return Section("Forgetting", text=(text,), tables=(Table(columns, tuple(rows)),), charts=tuple(charts))


def _accuracy(results: Results) -> Section:
    rows = tuple(
        (
            f"seed {result.seed}",
            f"{statistics.fmean(result.pretrained.values()):.3f}",
            f"{result.stream.accuracy:.3f}",
            f"{len(result.stream.stream_names)} of {len(result.stream.first_meetings)}",
            f"{result.stream.seconds:.0f}",
        )
        for result in results
    )
    columns = ("", "pretraining objects", "learned stream objects", "learned", "CPU seconds of the stream")
    return Section("Accuracy", tables=(Table(columns, rows, "Mean held-out Dice."),))


def _table1(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    rows = []
    for place, name in enumerate(("recall", "named rightly")):
        rows.append((name, *(spread([recall(r.taus[tau], tau)[place] for r in results]) for tau in plan.taus)))
    return _table_section(1, "Learned objects that are recognised", _per_tau(plan), rows, paper="Paper: 1.0 everywhere.")


def _table2(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    """The share that the first codes of a stream claim; a stream with fewer codes than a row says is left out of it."""

    def share(tau: float, count: int, *, least: int) -> str:
        runs = [r.taus[tau] for r in results if len(r.taus[tau].stream_names) >= least]
        return spread([claimed_share(run, unseen, tau, codes=count) for run in runs]) if runs else "-"

    most = max(len(r.taus[tau].stream_names) for r in results for tau in plan.taus)
    rows = [(f"{count} codes", *(share(tau, count, least=count) for tau in plan.taus)) for count in range(2, most, 2)]
    rows.append(("all codes", *(share(tau, plan.stream_objects, least=0) for tau in plan.taus)))
    paper = "Paper: grows from .08 to .60 at 0.6 and from .00 to .28 at 0.8."
    return _table_section(2, "Unseen objects that are claimed as seen", _per_tau(plan), rows, paper=paper)


def _table3(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    rows = _dynamics([[r.taus[tau] for r in results] for tau in plan.taus])
    return _table_section(3, "Dynamics by threshold", _per_tau(plan), rows, paper="Paper: bases/N .34 to .42, A .75 to .86.")


def _table4(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    rows = [
        (label, *(spread([r.shots[kind][str(n)] for r in results]) for n in plan.shots))
        for kind, label in (("bases", "combination of bases"), ("free", "free code"))
    ]
    columns = ("", *(f"{n} image" + ("s" if n > 1 else "") for n in plan.shots))
    text = f"Paper: bases lead by .15 with one image, by little with all. {plan.shot_objects} objects, {plan.shot_steps} steps."
    return _table_section(4, "Accuracy from few images", columns, rows, paper=text)


def _table5(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    rows = _dynamics([[run for r in results for run in r.orders]])
    paper = f"Paper (0.6, ten runs): bases/N .43 ± .02, A .76 ± .01. Here {plan.orders} orders of each seed at {plan.order_tau}."
    return _table_section(5, "Random orders", ("", "mean"), rows, paper=paper)


def _table6(results: Results, plan: ExperimentPlan, unseen: Sequence[str]) -> Section:
    groups = [[r.betas[beta] for r in results] for beta in plan.betas]
    rows = _dynamics(groups)
    rows.append(("forgotten / codes", *(spread([len(run.forgotten) / len(run.names) for run in group]) for group in groups)))
    rows.append(("fall of Dice", *(spread([run.drop for run in group]) for group in groups)))
    paper = "Paper: forgetting .97 without the term, .04 to .02 with it; A .02 against .67 to .72."
    return _table_section(6, "Weight of the memory term", ("", *(f"β = {beta:g}" for beta in plan.betas)), rows, paper=paper)


def _dynamics(groups: Sequence[Sequence[StreamOutcome]]) -> list[tuple[str, ...]]:
    """Return rows of shares of new objects (N): what became of them; one column per group of runs."""
    measures: list[tuple[str, Callable[[StreamOutcome], float]]] = [
        ("bases / N", lambda run: run.new_bases / len(run.first_meetings)),
        ("learned / N", lambda run: run.count("expressed", "redundant", "new_base") / len(run.first_meetings)),
        ("claimed as seen / N", lambda run: run.count("seen") / len(run.first_meetings)),
        ("expressed at once / N (Re)", lambda run: run.count("expressed") / len(run.first_meetings)),
        ("trained in vain / N (Rf)", lambda run: run.count("redundant", "discarded") / len(run.first_meetings)),
        ("accuracy (A)", lambda run: run.accuracy),
    ]
    return [(name, *(spread([measure(run) for run in group]) for group in groups)) for name, measure in measures]


def _per_tau(plan: ExperimentPlan) -> tuple[str, ...]:
    return ("", *(f"τ = {tau:g}" for tau in plan.taus))


def _table_section(number: int, title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]], *, paper: str) -> Section:
    return Section(f"Table {number}: {title}", text=(paper,), tables=(Table(columns, tuple(rows)),))
