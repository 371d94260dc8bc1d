"""`rsp-pretrain probe clone`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.probe_options import ENCODER_OPTIONS, encoder_options, taken
from rsp_pretrain.robot.tasks import TASKS
from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json

_CONFIG = ("history", "hidden", "optimizer", "lr", "batch", "epochs", "every", "rollouts", "horizon", "metric")


@click.command("clone")
@click.option("--env", "name", required=True, metavar="ID", help="gymnasium id, or module:id.")
@click.option("--env-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the environment; repeatable.")
@click.option("--demos", type=click.Path(path_type=Path), required=True, help="npz of probe collect, or a CortexBench pickle.")
@click.option("--demo-count", type=click.IntRange(1), help="Take the first so many demonstrations [default: all].")
@click.option("--task", type=click.Choice(list(TASKS)), help="Take the settings of a published task; see: probe tasks.")
@click.option(
    "--proprio", metavar="N|KEY", help="The robot's state: N leading numbers; of a pickle also an entry with N by --state."
)
@click.option(
    "--state", type=click.IntRange(0), help="With --proprio KEY: how many leading numbers of the observation it equals."
)
@click.option("--seeds", metavar="A,B", help="Seeds of the runs [default: 1,2,3,4,5].")
@click.option("--history", type=click.IntRange(1), help="Embeddings that are fused [default: 3].")
@click.option("--hidden", metavar="A,B", help="Widths of the policy's layers [default: 256,256,256].")
@click.option("--optimizer", type=click.Choice(["adam", "adamw"]), help="[default: adam]")
@click.option("--lr", type=float, help="Learning rate [default: 0.001].")
@click.option("--batch-size", "batch", type=click.IntRange(2), help="Samples of a step [default: 256].")
@click.option("--epochs", type=click.IntRange(1), help="Passes over the demonstrations [default: 100].")
@click.option("--every", type=click.IntRange(1), help="Epochs between evaluations [default: 5].")
@click.option("--rollouts", type=click.IntRange(1), help="Episodes of an evaluation [default: 25].")
@click.option("--horizon", type=click.IntRange(1), help="Most steps of an episode [default: the environment's limit].")
@click.option("--metric", type=click.Choice(["success", "return"]), help="What is reported [default: success].")
@click.option("--resize", type=click.IntRange(1), default=256, show_default=True, help="Shorter side in pixels.")
@click.option("--crop", type=click.IntRange(1), default=224, show_default=True, help="Side of the centre crop in pixels.")
@encoder_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of seed_<n>.json and probe.json.")
@json_option
def command(
    name: str,
    arguments: tuple[str, ...],
    demos: Path,
    demo_count: int | None,
    task: str | None,
    proprio: str | None,
    state: int | None,
    seeds: str | None,
    resize: int,
    crop: int,
    output: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Clone demonstrations from frozen embeddings, roll the policy out, report the best evaluation of each seed and their mean.

    A repeated command keeps the seeds that are done. Simulators need the extra rsp-pretrain[robot].

    Example: rsp-pretrain probe clone --env FetchReach-v4 --demos demos.npz --seeds 1,2,3 --output out/reach
    """
    from rsp_pretrain.probe.embedding import CortexTransform, Embedder
    from rsp_pretrain.probe.session import open_encoder
    from rsp_pretrain.robot.clone import CloneConfig, clone
    from rsp_pretrain.robot.demos import read_demos
    from rsp_pretrain.robot.environments import open_environment
    from vos_core.cli.progress import CountBar
    from vos_core.config import build_config, parse_assignments

    chosen = TASKS.get(task) if task is not None else None
    given = taken(options, *_CONFIG)
    if "hidden" in given:
        given["hidden"] = _numbers("--hidden", given["hidden"])
    key, count = _proprio(proprio, state, default=chosen.config.get("proprio", 0) if chosen else 0)
    config = build_config(CloneConfig, chosen.config if chosen else {}, given, {"proprio": count})
    runs = _numbers("--seeds", seeds) if seeds is not None else chosen.seeds if chosen else (1, 2, 3, 4, 5)
    episodes = read_demos(demos, proprio=key)[: demo_count or (chosen.demos if chosen else None)]
    if chosen is not None and chosen.obstacle:
        click.echo(f"{task}: {chosen.obstacle}.", err=True)
    transform = CortexTransform(resize=resize, crop=crop)
    environment = open_environment(name, parse_assignments(arguments))
    try:
        loaded = open_encoder(**{option: options[option] for option in ENCODER_OPTIONS})
        info = {
            "encoder": dict(loaded.settings),
            "env": name,
            "arguments": list(arguments),
            "demos": [demos.name, len(episodes)],
            "resize": resize,
            "crop": crop,
        }
        embedder = Embedder(loaded.encoder, image_size=crop)
        with CountBar("epoch") as bar:
            found = clone(
                environment, embedder, episodes, output, config, seeds=runs, info=info, transform=transform, on_epoch=bar.reach
            )
    finally:
        environment.close()
    if as_json:
        print_json(found)
    else:
        for seed, best in found["seeds"].items():
            click.echo(f"seed {seed:>6} {best:8.2f}")
        click.echo(f"{config.metric}: {found['mean']:.1f} ± {found['interval']:.1f} (95 %, {len(runs)} seeds)")
    if not loaded.settings["weights"]["trained"]:
        click.echo("Untrained weights (--weights random): this is the figure to beat.", err=True)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from vos_core.errors import UsageError

    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text}", expected="numbers separated by commas") from None


def _proprio(text: str | None, state: int | None, *, default: int) -> tuple[int | str, int]:
    """Return what of a demonstration is the robot's state, and how many numbers of an observation it equals."""
    from vos_core.errors import UsageError

    if text is None or text.isdigit():
        if state is not None:
            raise UsageError("--state was given without --proprio KEY", fix="Give --proprio N alone")
        count = default if text is None else int(text)
        return count, count
    if state is None:
        raise UsageError(f"--proprio {text} names an entry", fix="Add --state N: how many numbers of the observation it equals")
    return text, state
