"""`stcn-ttt train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from stcn_ttt.train.stages import CHAINS, STAGES
from vos_core.cli.options import training_options
from vos_core.contract import Precision
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command("train")
@click.option("--stage", type=click.Choice([str(number) for number in STAGES]), help="One stage.")
@click.option("--chain", type=click.Choice(list(CHAINS)), help="In its place: stages in order, each from the one before.")
@click.option("--id", "name", default="stcn", show_default=True, help="Name of the run; names its folders and files.")
@click.option("--static_root", "--static-root", type=_PATH, help="Sets of still images (stage 0).")
@click.option("--bl_root", "--bl-root", type=_PATH, help="BL30K (stage 1).")
@click.option("--yv_root", "--yv-root", type=_PATH, help="YouTube-VOS (stages 2 and 3).")
@click.option("--davis_root", "--davis-root", type=_PATH, help="DAVIS 2017, or any set in its layout (stages 2 and 3).")
@click.option("--yv_subset", "--yv-subset", type=_PATH, help="Clips of YouTube-VOS to use: names a line, or JSON.")
@click.option("--davis_subset", "--davis-subset", type=_PATH, help="Clips of DAVIS to use.")
@click.option(
    "--init", type=click.Choice(["imagenet", "random"]), default="imagenet", show_default=True, help="Of a first stage."
)
@click.option("--load_network", "--load-network", type=_PATH, help="Network file to start from.")
@click.option("--load_model", "--load-model", type=_PATH, help="Checkpoint to go on from (it, network, optimizer, scheduler).")
@click.option("-b", "--batch_size", "--batch-size", type=click.IntRange(1), help="Samples per rank [default: the stage's].")
@click.option("-i", "--iterations", type=click.IntRange(1), help="Steps [default: the stage's].")
@click.option("--steps", metavar="A,B", help="Steps at which the rate drops [default: the stage's].")
@click.option("--lr", type=float, default=1e-5, show_default=True, help="Adam's learning rate.")
@click.option("--gamma", type=float, default=0.1, show_default=True, help="Factor of each drop.")
@click.option("--size", type=click.IntRange(32), default=384, show_default=True, help="Side of the samples in pixels.")
@click.option("--no_amp", "--no-amp", is_flag=True, help="The same as --precision fp32.")
@click.option("--benchmark", is_flag=True, help="Let cuDNN time its algorithms.")
@click.option("--debug", is_flag=True, help="Log and draw every step, detect where a NaN began.")
@training_options
def command(stage: str | None, chain: str | None, **options: Any) -> None:
    """Train STCN; the same command goes on where a run stopped, bit for bit on a CPU. Starts under torchrun as well.

    Example: torchrun --nproc-per-node 2 -m stcn_ttt train --stage 3 --load_network s0.pth --davis_root DAVIS/2017
    """
    import torch

    from stcn_ttt.train.run import DataRoots, TrainOptions, train_chain
    from vos_core.run.device import choose_device
    from vos_core.training.distributed import ranks_from_environment

    if (stage is None) == (chain is None):
        raise UsageError("--stage and --chain" if stage else "no stage was named", expected="one of --stage and --chain")
    stages = CHAINS[chain] if chain is not None else (int(stage or 0),)
    as_json, device, debug = options.pop("as_json"), choose_device(options.pop("device")), options.pop("debug")
    asked, no_amp = options.pop("precision"), options.pop("no_amp")
    published: Precision = "fp16" if device.startswith("cuda") else "fp32"
    precision: Precision = "fp32" if no_amp else asked or published
    torch.backends.cudnn.benchmark = options.pop("benchmark")
    if threads := options.pop("threads"):
        torch.set_num_threads(threads)
    roots = DataRoots(
        static=options.pop("static_root"),
        bl30k=options.pop("bl_root"),
        youtube=options.pop("yv_root"),
        davis=options.pop("davis_root"),
        youtube_subset=options.pop("yv_subset"),
        davis_subset=options.pop("davis_subset"),
    )
    steps = options.pop("steps")
    recipe = {name: value for name in ("seed", "save_every") if (value := options.pop(name)) is not None}
    settings = TrainOptions(
        roots=roots,
        milestones=None if steps is None else _milestones(steps),
        workers=options.pop("num_workers"),
        precision=precision,
        log_every=1 if debug else 100,
        picture_every=1 if debug else 800,
        **options,
        **recipe,
    )
    with torch.autograd.set_detect_anomaly(debug), ranks_from_environment(device) as ranks:
        network = train_chain(stages, settings, ranks)
        if ranks.main:
            click.echo(json.dumps({"network": str(network)}) if as_json else str(network))


def _milestones(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--steps {text} is not a list of steps", expected="for example 250000 or 100,200") from None
