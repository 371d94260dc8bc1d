"""`object-pursuit pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from object_pursuit.cli.options import PATH, image_size, init_option, network_options, resize_option, words, write_run_file
from vos_core.cli.options import training_options
from vos_core.errors import UsageError


@click.command("pretrain")
@click.option(*words("data"), "data", type=PATH, multiple=True, help="Folder of objects; repeatable, each with its --dataset.")
@click.option(
    *words("dataset"), "dataset", multiple=True, help="iThor, DAVIS, CO3D, YouTube-VOS (VOS) or custom [default: DAVIS]."
)
@click.option(*words("out"), "out", type=PATH, help="The same as --output.")
@click.option(*words("model"), "model", type=click.Choice(["Multinet", "MultiDeeplab"]), default="Multinet", show_default=True)
@click.option(*words("batch_size"), "batch_size", type=click.IntRange(2), default=8, show_default=True, help="Images a step.")
@click.option(*words("epochs"), "epochs", type=click.IntRange(1), default=100, show_default=True)
@click.option(*words("lr"), "lr", type=float, default=4e-4, show_default=True, help="Learning rate, times 0.7 every 15 epochs.")
@click.option(*words("eval_step"), "eval_step", type=click.IntRange(1), default=10, show_default=True, help="Epochs.")
@click.option(*words("eval_n"), "eval_n", type=int, default=-1, show_default=True, help="Images scored per object; -1 = all.")
@click.option(*words("save_ckpt"), "save_ckpt", is_flag=True, help="Keep the best epoch (pretrain_best.pth), not only the last.")
@click.option(*words("use_dice_loss"), "use_dice_loss", is_flag=True, help="Measure quality by Dice instead of IoU.")
@click.option(*words("num_balance"), "num_balance", is_flag=True, help="As many batches of every object.")
@click.option(*words("freeze_backbone"), "freeze_backbone", is_flag=True, help="Do not train the encoder.")
@click.option(*words("trainset_only"), "trainset_only", is_flag=True, help="Leave out the DAVIS 2016 validation sequences.")
@click.option("--start", type=PATH, help="Joint checkpoint to start from, of the same objects.")
@network_options
@init_option
@resize_option
@training_options
def command(data: tuple[Path, ...], dataset: tuple[str, ...], **options: Any) -> None:
    """Learn one code per object, hypernetwork and encoder together; the start of pursuits and of one-shot segmentation.

    The same command goes on where it stopped, bit for bit on a CPU. Starts under torchrun as well: each rank takes objects of its
    own. pretrain_info.json in the output is what remove-redundancy reads. --preset tiny without --data draws its objects.

    Example: torchrun --nproc-per-node 2 -m object_pursuit pretrain --data DAVIS --dataset DAVIS --use_backbone --save_ckpt
    """
    import torch

    from object_pursuit.cli.pretrain_run import joint_objects, start_network
    from object_pursuit.joint import JointOptions, read_joint_evaluations, train_joint
    from object_pursuit.start import choose_config
    from vos_core.cli.printing import print_json
    from vos_core.run.device import apply_threads, choose_device
    from vos_core.training.distributed import ranks_from_environment

    apply_threads(options["threads"])
    out = options["out"] or options["output"]
    seed = options["seed"] or 0
    device = choose_device(options["device"])
    if options["start"] is not None and options["backbone"] is not None:
        raise UsageError("--start brings the encoder of its joint checkpoint", fix="Leave out --backbone")
    config = choose_config(options["preset"], use_backbone=options["use_backbone"], hypernet=None, z_dim=options["z_dim"])
    size = image_size(options["resize"], options["preset"])
    objects = joint_objects(
        data, dataset, size=size, seed=seed, trainset_only=options["trainset_only"], tiny=options["preset"] == "tiny"
    )
    settings = JointOptions(
        **{name: options[name] for name in ("model", "batch_size", "epochs", "lr", "num_balance", "freeze_backbone")},
        **{name: options[name] for name in ("eval_step", "eval_n", "accumulate")},
        metric="dice" if options["use_dice_loss"] else "jaccard_pooled",
        seed=seed,
    )
    with ranks_from_environment(device) as ranks:
        torch.manual_seed(seed)  # the same start on all ranks
        network = start_network(
            config, settings, len(objects), start=options["start"], backbone=options["backbone"], init=options["backbone_init"]
        ).to(ranks.device)
        if ranks.main:
            write_run_file(out, "pretrain", {"data": data, "dataset": dataset, **options})
        last = train_joint(
            network,
            objects,
            settings,
            out=out,
            ranks=ranks,
            precision=options["precision"] or "fp32",
            threads=options["num_workers"],
            save_every=options["save_every"],
            save_best=options["save_ckpt"],
            tensorboard=options["tensorboard"],
            progress=True,
        )
        if ranks.main:
            scores = read_joint_evaluations(out)
            if options["as_json"]:
                print_json({"network": str(last), "objects": len(objects), "evaluations": scores})
            else:
                best = max(scores, key=lambda pair: pair[1])
                click.echo(f"{last}: {len(objects)} objects, best mean quality {best[1]:.3f} after epoch {best[0]}")
