"""`rsp-pretrain probe collect`."""

from __future__ import annotations

from pathlib import Path

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json


@click.command("collect")
@click.option("--env", "name", required=True, metavar="ID", help="gymnasium id, or module:id.")
@click.option("--env-arg", "arguments", multiple=True, metavar="KEY=VALUE", help="Argument of the environment; repeatable.")
@click.option("--expert", metavar="MODULE:FUNCTION", help="Who acts; built in for rsp_pretrain/PointReach-v0 and FetchReach.")
@click.option("--episodes", type=click.IntRange(1), default=25, show_default=True, help="Successful demonstrations to keep.")
@click.option("--horizon", type=click.IntRange(1), help="Most steps of an episode [default: the environment's limit].")
@click.option(
    "--proprio", type=click.IntRange(0), default=0, show_default=True, help="Leading numbers of the observation to keep."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the first episode's start.")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="File: .npz.")
@json_option
def command(
    name: str,
    arguments: tuple[str, ...],
    expert: str | None,
    episodes: int,
    horizon: int | None,
    proprio: int,
    seed: int,
    output: Path,
    as_json: bool,
) -> None:
    """Write demonstrations of an expert: pictures, actions, the robot's own state. Failed episodes are not kept.

    Example: rsp-pretrain probe collect --env FetchReach-v4 --env-arg width=256 --env-arg height=256 --output demos.npz
    """
    from rsp_pretrain.robot.demos import Episode, write_demos
    from rsp_pretrain.robot.environments import choose_expert, open_environment
    from rsp_pretrain.robot.rollout import demonstrate
    from vos_core.cli.progress import CountBar
    from vos_core.config import parse_assignments
    from vos_core.errors import UsageError, VosError

    if output.suffix != ".npz":
        raise UsageError(f"--output {output}", expected="a file that ends in .npz")
    actor = choose_expert(name, expert)
    environment = open_environment(name, parse_assignments(arguments))
    kept: list[Episode] = []
    tried = 0
    try:
        with CountBar("episode", total=episodes) as bar:
            while len(kept) < episodes:
                if tried >= 4 * episodes + 10:
                    raise VosError(
                        f"the expert succeeded in {len(kept)} of {tried} episodes of '{name}'",
                        fix="Give it more steps with --horizon, or another --expert",
                    )
                found, went = demonstrate(environment, actor, seed=seed + tried, proprio=proprio, horizon=horizon)
                tried += 1
                if went.success:
                    kept.append(found)
                    bar.advance()
    finally:
        environment.close()
    info = {"env": name, "arguments": list(arguments), "expert": expert, "seed": seed, "proprio": proprio}
    write_demos(output, kept, info)
    steps = sum(len(one.actions) for one in kept)
    if as_json:
        print_json({"output": str(output), "episodes": len(kept), "tried": tried, "steps": steps})
    else:
        click.echo(f"{output}: {len(kept)} of {tried} episodes, {steps} steps")
