"""`rsp-pretrain train`."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from rsp_pretrain.config import Objective
from vos_core.cli.options import training_options
from vos_core.contract import Precision
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)
_GOAL = {name: field.default for name, field in Objective.model_fields.items()}


@click.command("train")
@click.option("--data_path", "--data-path", type=_PATH, required=True, help="Kinetics-400, a list of videos, any folder of them.")
@click.option(
    "--model", "--variant", "variant", default="rsp_vit_small_patch16", show_default=True, help="Variant, short or long name."
)
@click.option(
    "-b", "--batch_size", "--batch-size", type=click.IntRange(1), default=64, show_default=True, help="Videos per rank."
)
@click.option("--accum_iter", "--accum-iter", type=click.IntRange(1), help="The same as --accumulate.")
@click.option("--epochs", type=click.IntRange(1), default=400, show_default=True, help="Divided by --repeated_sampling.")
@click.option("--warmup_epochs", "--warmup-epochs", type=click.FloatRange(0), default=40, show_default=True, help="Likewise.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Learning rate [default: blr * videos a step / 256].")
@click.option("--blr", type=click.FloatRange(0, min_open=True), default=1.5e-4, show_default=True, help="Base learning rate.")
@click.option("--min_lr", "--min-lr", type=click.FloatRange(0), default=0.0, show_default=True, help="Learning rate at the end.")
@click.option("--weight_decay", "--weight-decay", type=click.FloatRange(0), default=0.05, show_default=True, help="Of matrices.")
@click.option("--layer_decay", "--layer-decay", type=click.FloatRange(0, 1, min_open=True), help="Rate factor between layers.")
@click.option("--clip_grad", "--clip-grad", type=click.FloatRange(0, min_open=True), help="Largest gradient norm.")
@click.option("--norm_pix_loss", "--norm-pix-loss", is_flag=True, help="Predict patches normalised each by itself.")
@click.option(
    "--mask_ratio", "--mask-ratio", type=float, default=_GOAL["mask_ratio"], show_default=True, help="Share of hidden patches."
)
@click.option(
    "--noise-scale", "--noise_scale", type=float, default=_GOAL["noise_scale"], show_default=True, help="Of the target's noise."
)
@click.option("--kl-scale", "--kl_scale", type=float, default=_GOAL["kl_scale"], show_default=True, help="Weight of the KL term.")
@click.option(
    "--kl-balance", "--kl_balance", type=float, default=_GOAL["kl_balance"], show_default=True, help="Posterior's share of it."
)
@click.option("--kl-freebit", "--kl_freebit", type=float, default=_GOAL["kl_freebit"], show_default=True, help="Free nats.")
@click.option("--stoch", type=int, default=_GOAL["stoch"], show_default=True, help="Latent variables.")
@click.option("--discrete", type=int, default=_GOAL["discrete"], show_default=True, help="Classes of each; 0 = Gaussian.")
@click.option("--input_size", "--input-size", type=click.IntRange(32), default=224, show_default=True, help="Side of the crops.")
@click.option(
    "--max_distance", "--max-distance", type=click.IntRange(1), default=48, show_default=True, help="Largest gap, frames."
)
@click.option(
    "--repeated_sampling", "--repeated-sampling", type=click.IntRange(1), default=2, show_default=True, help="Pairs per video."
)
@click.option("--prefetch_factor", "--prefetch-factor", type=click.IntRange(1), default=2, show_default=True, help="Per worker.")
@click.option("--pin_mem/--no_pin_mem", "--pin-mem/--no-pin-mem", "pin_memory", default=True, help="Page-locked batches (CUDA).")
@click.option("--resume", metavar="FILE|URL", help="Checkpoint of a run to go on from (an --output goes on by itself).")
@click.option("--init", type=_PATH, help="Weights to start from: a whole checkpoint or an encoder.")
@click.option("--start_epoch", "--start-epoch", type=click.IntRange(0), default=0, show_default=True, help="Without --resume.")
@click.option("--output_dir", "--output-dir", "--log_dir", "--log-dir", "output_dir", type=_PATH, help="The same as --output.")
@click.option("--save-epochs", type=click.IntRange(1), default=50, show_default=True, help="Between published checkpoints.")
@click.option("--log-every", type=click.IntRange(1), default=20, show_default=True, help="Steps between log lines.")
@click.option("--picture-every", type=click.IntRange(1), default=1000, show_default=True, help="Steps between TensorBoard's.")
@click.option("--prior-every", type=click.IntRange(1), default=20, show_default=True, help="Steps between losses of the prior.")
@click.option("--local_rank", "--local-rank", type=int, hidden=True)
@training_options
def command(**options: Any) -> None:
    """Pre-train an encoder by stochastic frame prediction; the same command goes on where a run stopped, bit for bit on a CPU.

    Epochs count frame pairs: each pass over the videos is worth --repeated_sampling epochs. Starts under torchrun as well.

    Example: torchrun --nproc-per-node 8 -m rsp_pretrain train --data_path kinetics400 --batch_size 96 --accumulate 2
    """
    import torch

    from rsp_pretrain.data.pairs import PairConfig
    from rsp_pretrain.train.run import TrainOptions, pretrain
    from vos_core.config import build_config
    from vos_core.run.device import apply_threads, choose_device
    from vos_core.training.distributed import ranks_from_environment

    _check_local_rank(options.pop("local_rank"))
    as_json, device = options.pop("as_json"), choose_device(options.pop("device"))
    published: Precision = "fp16" if device.startswith("cuda") else "fp32"
    apply_threads(options.pop("threads"))
    torch.backends.cudnn.benchmark = device.startswith("cuda")
    output = _one_of(options.pop("output_dir"), options.pop("output"), default=Path("saves"), names="--output_dir and --output")
    accumulate = _one_of(options.pop("accum_iter"), options.pop("accumulate"), default=1, names="--accum_iter and --accumulate")
    settings = TrainOptions(
        data=options.pop("data_path"),
        output=output,
        objective=build_config(Objective, {name: options.pop(name) for name in Objective.model_fields}),
        pairs=build_config(
            PairConfig,
            {
                "repeated_sampling": options.pop("repeated_sampling"),
                "max_distance": options.pop("max_distance"),
                "size": options.pop("input_size"),
            },
        ),
        accumulate=accumulate,
        precision=options.pop("precision") or published,
        workers=options.pop("num_workers"),
        prefetch=options.pop("prefetch_factor"),
        seed=options.pop("seed") or 0,
        **options,
    )
    with ranks_from_environment(device) as ranks:
        last = pretrain(settings, ranks, on_init=lambda report: click.echo(report, err=True) if ranks.main else None)
        if ranks.main:
            click.echo(json.dumps({"checkpoint": str(last)}) if as_json else str(last))


def _check_local_rank(local_rank: int | None) -> None:
    """Refuse a rank that only the option names: `torch.distributed.launch` passes it, but sets torchrun's variables as well."""
    if local_rank is not None and local_rank >= 0 and os.environ.get("LOCAL_RANK") != str(local_rank):
        raise UsageError(
            f"--local-rank {local_rank} without the variable LOCAL_RANK={local_rank}",
            fix="Start with torchrun --nproc-per-node N -m rsp_pretrain train",
        )


def _one_of(first: Any, second: Any, *, default: Any, names: str) -> Any:
    """Return the value of an option with two names, of which one may have been given."""
    if first is None:
        return second
    if second not in (default, first):
        raise UsageError(f"{names} differ ({first} and {second})", fix="Give one of them")
    return first
