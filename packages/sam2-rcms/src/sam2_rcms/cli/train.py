"""`sam2-rcms train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2_rcms.train.presets import PRESETS, load_config
from vos_core.cli.options import training_options
from vos_core.errors import UsageError

if TYPE_CHECKING:
    from sam2_rcms.train.config import TrainConfig

_PATH = click.Path(path_type=Path)


@click.command("train")
@click.option(
    "-c", "--config", metavar="NAME|FILE", required=True, help=f"{', '.join(PRESETS)}; a YAML file, also one of the original."
)
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set one value, such as optimizer.base_lr=1e-5.")
@click.option("--data", type=_PATH, metavar="ROOT", help="Training set: MOSEv2, SA-V, DAVIS, YouTube-VOS, LVOS or a folder.")
@click.option("--layout", metavar="NAME", help="Its layout [default: found out].")
@click.option("--split", metavar="NAME", help="Its split [default: train].")
@click.option("--img-folder", "--img_folder", type=_PATH, help="In place of --data: <clip>/<frame>.jpg, with --gt-folder.")
@click.option("--gt-folder", "--gt_folder", type=_PATH, help="<clip>/<frame>.png.")
@click.option("--file-list", "--file_list_txt", "file_list_txt", type=_PATH, help="Clips to use, one name a line.")
@click.option("--weights", metavar="NAME|FILE|random", help="What to start from; stage 2: the network that stage 1 wrote.")
@click.option("--resume-from", "--resume_from", type=_PATH, help="Checkpoint of another folder to go on from.")
@click.option("--steps", type=click.IntRange(1), help="Steps in place of the configuration's epochs.")
@click.option("--num-gpus", "--num_gpus", type=click.IntRange(1), help="Ranks to start on this machine; or start with torchrun.")
@click.option("--use-cluster", "--use_cluster", type=click.Choice(["0", "1"]), hidden=True, help="1 is refused: see --num-nodes.")
@click.option("--num-nodes", "--num_nodes", type=click.IntRange(1), hidden=True, help="Above 1 is refused: see README.")
@click.option("--partition", hidden=True, help="Refused, as the other options of the original for SLURM.")
@click.option("--account", hidden=True, help="As --partition.")
@click.option("--qos", hidden=True, help="As --partition.")
@click.option("--picture-every", type=click.IntRange(1), default=500, show_default=True, help="Steps between pictures.")
@click.option("--print-config", is_flag=True, help="Print the resolved configuration as YAML and stop.")
@training_options
def command(**options: Any) -> None:
    """Fine-tune SAM 2.1 on videos; the same command goes on where a run stopped, bit for bit on a CPU.

    Stage 1 trains the whole network on short clips, stage 2 (LVT, MSS) the rest on long ones with the image encoder frozen.

    Example: sam2-rcms train -c b+_stage2 --data MOSEv2 --weights saves/stage1/model.pt -o saves/stage2
    """
    _refuse_cluster(options)
    config = _configuration(options)
    if options["print_config"]:
        import yaml

        click.echo(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False), nl=False)
        return
    ranks = options["num_gpus"]
    if ranks is not None and ranks > 1 and not _under_torchrun():
        _start_ranks(ranks)
        return
    _run(config, options)


for _parameter in command.params:
    if isinstance(_parameter, click.Option) and _parameter.name in ("accumulate", "num_workers"):
        _parameter.default, _parameter.show_default = None, "the configuration's"


def _refuse_cluster(options: dict[str, Any]) -> None:
    """Refuse the original's options that submit a SLURM job; its values for a run on this machine are allowed."""
    asked = [f"--{name}" for name in ("partition", "account", "qos") if options.pop(name) is not None]
    asked += ["--use-cluster"] if options.pop("use_cluster") == "1" else []
    asked += ["--num-nodes"] if (options.pop("num_nodes") or 1) > 1 else []
    if asked:
        raise UsageError(
            f"{', '.join(asked)}: this command does not submit SLURM jobs",
            fix="Start it with torchrun under srun on every node of your own job, as the README shows",
        )


def _configuration(options: dict[str, Any]) -> TrainConfig:
    from vos_core.config import build_config

    named = ("root", "layout", "split", "img_folder", "gt_folder", "file_list_txt")
    options["root"] = options.pop("data")
    data = {name: value for name in named if (value := options[name]) is not None}
    if "root" in data and ("img_folder" in data or "gt_folder" in data):
        raise UsageError("--data together with --img-folder or --gt-folder", expected="one place for the training set")
    if data.get("root") is not None:
        data |= {"img_folder": None, "gt_folder": None}
    elif data.get("img_folder") is not None:
        data |= {"root": None}
    config = load_config(options["config"], options["assignments"], data=data)
    fields = {"weights": "weights", "steps": "steps", "seed": "seed", "save_every": "save_every"}
    fields |= {"accumulate": "accumulate", "num_workers": "workers", "precision": "precision"}
    changed = {field: value for option, field in fields.items() if (value := options[option]) is not None}
    if "precision" not in changed and not options["print_config"] and not _on_cuda(options["device"]):
        changed["precision"] = "fp32"
    return build_config(type(config), changed, base=config)


def _on_cuda(device: str) -> bool:
    from vos_core.run.device import choose_device

    return choose_device(device).startswith("cuda")


def _run(config: TrainConfig, options: dict[str, Any]) -> None:
    import torch

    from sam2_rcms.train.run import TrainOptions, train
    from vos_core.run.device import check_precision, choose_device
    from vos_core.training.distributed import ranks_from_environment

    device = choose_device(options["device"])
    check_precision(config.precision, device)
    if options["threads"]:
        torch.set_num_threads(options["threads"])
    settings = TrainOptions(
        output=options["output"],
        weights=_weights(config, options["output"]),
        resume_from=options["resume_from"],
        tensorboard=options["tensorboard"],
        picture_every=options["picture_every"],
    )
    with ranks_from_environment(device) as ranks:
        network = train(config, settings, ranks)
        if ranks.main:
            click.echo(json.dumps({"network": str(network)}) if options["as_json"] else str(network))


def _weights(config: TrainConfig, output: Path) -> Path | None:
    """Return the file to start from, None for untrained weights; nothing is fetched for a run that goes on."""
    from vos_core.training.checkpoint import newest_checkpoint
    from vos_core.weights.registry import resolve

    if config.weights == "random" or newest_checkpoint(output) is not None:
        return None
    if not config.weights:
        raise UsageError(
            "stage 2 starts from the network of stage 1, and none was named",
            fix="Pass --weights FILE, such as saves/stage1/model.pt",
        )
    name = f"sam2.1_hiera_{config.variant}" if config.weights == "auto" else config.weights
    return resolve(name, method="sam2-rcms").path


def _under_torchrun() -> bool:
    import os

    return "RANK" in os.environ


def _start_ranks(count: int) -> None:
    """Start this command once for each rank with torchrun and leave with its exit code."""
    import subprocess
    import sys

    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "sam2_rcms"]
    done = subprocess.run([*words, *sys.argv[1:]], check=False)
    if done.returncode:
        raise click.exceptions.Exit(done.returncode)
