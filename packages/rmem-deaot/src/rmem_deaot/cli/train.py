"""`rmem-deaot train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rmem_deaot.cli.options import refused_option
from rmem_deaot.train.stages import REACH, STAGES, Source, plan_stage
from vos_core.cli.options import split_names, training_options
from vos_core.contract import Precision
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)
_SOURCES: tuple[Source, ...] = ("static", *REACH)
_ROOTS: dict[str, Source] = {
    "static_root": "static",
    "yv_root": "youtubevos",
    "davis_root": "davis2017",
    "lvos_root": "lvos",
    "vost_root": "vost",
    "visor_root": "visor",
}


@click.command("train")
@click.option("--stage", default="pre", show_default=True, metavar="NAME", help=f"One of {', '.join(STAGES)}.")
@click.option("--model", default="r50_deaotl", show_default=True, metavar="NAME", help="Variant; see: vos methods.")
@click.option("--exp_name", "--exp-name", "name", default="default", show_default=True, help="Name of the run; names its folder.")
@click.option("--use_temporal_pos_emb", "--use-temporal-pos-emb", is_flag=True, help="Train the RMem form of the model.")
@click.option("--datasets", metavar="A,B", help=f"Sets to train on: {', '.join(_SOURCES)} [default: the stage's].")
@click.option("--static_root", "--static-root", type=_PATH, help="Sets of still images.")
@click.option("--yv_root", "--yv-root", type=_PATH, help="YouTube-VOS 2019.")
@click.option("--davis_root", "--davis-root", type=_PATH, help="DAVIS 2017, or any set in its layout.")
@click.option("--lvos_root", "--lvos-root", type=_PATH, help="LVOS.")
@click.option("--vost_root", "--vost-root", type=_PATH, help="VOST.")
@click.option("--visor_root", "--visor-root", type=_PATH, help="VISOR, or any folder of clips (JPEGImages and Annotations).")
@click.option("--pretrained_path", "--pretrained-path", "previous", type=_PATH, help="Weights to start from.")
@click.option("--init", type=click.Choice(["imagenet", "random"]), help="Start from an ImageNet encoder, or from nothing.")
@click.option(
    "--batch_size", "--batch-size", "batch", type=click.IntRange(1), help="Clips a step over all ranks [default: 8, 16]."
)
@click.option("--total_step", "--total-step", "steps", type=click.IntRange(1), help="Steps [default: the stage's].")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Largest learning rate [default: the stage's].")
@click.option("--seq_len", "--seq-len", "frames", type=click.IntRange(2), help="Frames of a clip [default: the stage's].")
@click.option(
    "--lt_gap", "--lt-gap", "gap", type=click.IntRange(1), help="Frames between long-term frames [default: the stage's]."
)
@click.option(
    "--max_id_num",
    "--max-id-num",
    "objects",
    type=click.IntRange(1, 10),
    default=10,
    show_default=True,
    help="Most objects of a clip.",
)
@click.option("--size", type=click.IntRange(33), default=465, show_default=True, help="Side of the samples in pixels.")
@click.option("--restrict-memory/--no-restrict-memory", default=False, show_default=True, help="Restrict the bank of each clip.")
@click.option(
    "--restrict-by",
    type=click.Choice(["relevance", "oldest"]),
    default="relevance",
    show_default=True,
    help="Which frame leaves.",
)
@click.option(
    "--latter_mem_len", "--latter-mem-len", "latter", type=click.IntRange(1), help="Frames beside the first [default: 7, VOST 8]."
)
@click.option(
    "--use_prev_prob",
    "--use-prev-prob",
    "soft_masks",
    is_flag=True,
    help="In the second half of the steps, remember probabilities of the own masks, not label maps.",
)
@click.option("--amp", is_flag=True, help="Half precision: fp16 on CUDA, bf16 on CPU. The same as --precision otherwise.")
@click.option("--fix_random", "--fix-random", is_flag=True, help="Deterministic algorithms only; slower on a GPU.")
@refused_option("--debug_fix_random")
@click.option("--debug", is_flag=True, help="Log and draw every step, detect where a NaN began.")
@training_options
def command(**options: Any) -> None:
    """Train AOT, DeAOT or RMem; the same command goes on where a run stopped. Starts under torchrun as well.

    Example: torchrun --nproc-per-node 4 -m rmem_deaot train --stage pre_ytb_dav --model r50_deaotl_rmem --yv_root YouTube
    --davis_root DAVIS/2017 --pretrained_path R50_DeAOTL_PRE.pth
    """
    import torch

    from rmem_deaot.train.bank import BankLimits
    from rmem_deaot.train.run import TrainOptions, train_stage
    from vos_core.run.device import choose_device
    from vos_core.training.distributed import ranks_from_environment

    plan = plan_stage(options.pop("stage"), options.pop("model"), temporal_position=options.pop("use_temporal_pos_emb"))
    as_json, device, debug = options.pop("as_json"), choose_device(options.pop("device")), options.pop("debug")
    if threads := options.pop("threads"):
        torch.set_num_threads(threads)
    restricted, rule, latter = options.pop("restrict_memory"), options.pop("restrict_by"), options.pop("latter")
    if latter is not None and not restricted:
        raise UsageError("--latter_mem_len was given without --restrict-memory", fix="Add it")
    if options["soft_masks"] and not plan.stage.own_masks:
        raise UsageError(
            f"--use_prev_prob was given, but stage {plan.stage.name} remembers true masks only", fix="Leave it out here"
        )
    roots = {source: root for option, source in _ROOTS.items() if (root := options.pop(option)) is not None}
    fixed = options.pop("fix_random")
    settings = TrainOptions(
        roots=roots,
        sources=_sources(options.pop("datasets")),
        limits=BankLimits(latter=latter or plan.config.latter, rule=rule) if restricted else None,
        precision=_precision(options.pop("precision"), amp=options.pop("amp"), device=device),
        workers=options.pop("num_workers"),
        seed=options.pop("seed") or 0,
        log_every=1 if debug else 100,
        picture_every=1 if debug else 800,
        **options,
    )
    if fixed:
        torch.use_deterministic_algorithms(True, warn_only=True)
    with torch.autograd.set_detect_anomaly(debug), ranks_from_environment(device) as ranks:
        weights = train_stage(plan, settings, ranks)
        if ranks.main:
            click.echo(json.dumps({"weights": str(weights)}) if as_json else str(weights))


def _precision(asked: Precision | None, *, amp: bool, device: str) -> Precision:
    cuda = device.startswith("cuda")
    if asked is not None:
        return asked
    if amp:
        return "fp16" if cuda else "bf16"
    return "fp16" if cuda else "fp32"  # the published recipe's on a GPU


def _sources(text: str | None) -> tuple[Source, ...] | None:
    if text is None:
        return None
    names = split_names(text)
    unknown = [name for name in names if name not in _SOURCES]
    if unknown or not names:
        raise UsageError(f"--datasets {text} names an unknown set", expected=f"some of {', '.join(_SOURCES)}")
    return tuple(source for source in _SOURCES if source in names)
