"""`object-pursuit pursue`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import (
    PATH,
    OptionalPath,
    hypernet_option,
    init_option,
    network_options,
    resize_option,
    say,
    words,
    write_run_file,
)
from vos_core.cli.options import device_options, json_option
from vos_core.errors import InterruptError


@click.command("pursue")
@click.option(*words("data", short="d"), "data", type=PATH, help="Folder of the objects; drawn ones with --preset tiny.")
@click.option(*words("dataset"), "dataset", help="iThor, DAVIS, CO3D, YouTube-VOS or custom [default: CO3D; tiny: iThor].")
@click.option(*words("out", short="o"), "out", type=PATH, default=Path("checkpoints"), show_default=True, help="Output folder.")
@click.option(*words("bases"), "bases", type=OptionalPath(), help="Base codes: folder or joint checkpoint; None.")
@click.option(*words("zs"), "zs", type=OptionalPath(), help="Codes of known objects [default: the bases]; None.")
@network_options
@hypernet_option
@init_option
@resize_option
@click.option(*words("order"), "order", type=click.Choice(["sequence", "random"]), default="sequence", show_default=True)
@click.option(*words("thres"), "thres", type=click.FloatRange(0, 1), help="Threshold tau of all decisions [default: 0.7].")
@click.option(*words("save_interval"), "save_interval", type=click.IntRange(0), default=0, help="Rounds between snapshots.")
@click.option(*words("eval"), "evaluate", is_flag=True, help="Score all codes afterwards: evaluation.json.")
@click.option("--keep", type=click.Choice(["best", "last"]), help="Epoch of a fit that is kept [default: best].")
@click.option("--partial-batches", type=click.Choice(["keep", "drop"]), help="Of small objects [default: keep].")
@click.option(
    "--dropout", type=click.Choice(["always", "train", "never"]), help="When generated networks drop [default: always]."
)
@click.option("--clip-value", type=float, help="Clip gradient values to +- this [default: no clipping].")
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set another option of the pursuit, such as beta=0."
)
@click.option("--config", "config_file", type=PATH, help="YAML file with options of the pursuit.")
@click.option("--label", type=click.IntRange(1), help="Object id in palette masks [default: any object].")
@click.option("--no-repeats", is_flag=True, help="Do not meet earlier objects again.")
@click.option("--file-names", type=click.Choice(["pth", "reference"]), default="pth", help="reference: z_0000.json, as before.")
@click.option("--on-error", type=click.Choice(["stop", "skip"]), default="stop", show_default=True, help="When a round fails.")
@click.option("--resume/--no-resume", default=True, show_default=True, help="Go on with what --out holds, or begin anew.")
@click.option("--dry-run", is_flag=True, help="Print the stream and the options, and stop.")
@device_options
@json_option
@click.pass_context
def command(context: click.Context, /, out: Path, as_json: bool, **options: Any) -> None:
    """Meet objects one after the other: recognise each, express it by bases, or learn it as a new base.

    A repeated command goes on where it stopped. OUT gets zs, Bases, checkpoint, rounds.jsonl (every decision with its numbers),
    pursuit_log.txt, z_info.json and base_info.json. Exit code 0: all rounds done, 1: some failed, 2: wrong use.

    Example: object-pursuit pursue --preset tiny --out run --eval
    """
    from object_pursuit.cli.pursue_run import plan_pursuit
    from vos_core.cli.printing import print_json

    arguments = {"out": out, **options}
    plan = plan_pursuit(out, options, tell=say)
    if options["dry_run"]:
        shown = {"stream": list(plan.stream), "options": plan.options.model_dump(mode="json")}
        print_json(shown) if as_json else click.echo("\n".join(plan.stream))
        return
    pursuit = plan.build()
    write_run_file(out, "pursue", arguments)
    try:
        rounds = pursuit.run()
    except KeyboardInterrupt:
        raise InterruptError(
            f"interrupted in round {pursuit.state.round + 1} of {len(plan.stream)}; {pursuit.state.round} rounds are kept",
            fix="Run the same command again to go on",
        ) from None
    counts: dict[str, int] = {}
    for one in rounds:
        counts[one.verdict] = counts.get(one.verdict, 0) + 1
    result: dict[str, Any] = {
        "rounds": len(rounds),
        "verdicts": counts,
        "objects": pursuit.state.objects,
        "bases": pursuit.state.bases,
        "out": str(out),
    }
    if options["evaluate"]:
        result["evaluation"] = plan.evaluate()["mean"]
    if as_json:
        print_json(result)
    else:
        told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
        click.echo(f"{len(rounds)} rounds: {told}; {pursuit.state.objects} objects, {pursuit.state.bases} bases in {out}")
        if options["evaluate"]:
            click.echo(", ".join(f"{name} {value:.3f}" for name, value in result["evaluation"].items()))
    if "failed" in counts:
        click.echo(f"{counts['failed']} rounds failed: see {out}/pursuit_log.txt", err=True)
        context.exit(1)
