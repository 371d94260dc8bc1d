"""`rmem-deaot eval`: the benchmarks with their published settings, in the words of the original's script."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from rmem_deaot import METHOD
from rmem_deaot.cli.options import refused_option, rmem_options, take_rmem_options
from rmem_deaot.presets import PRESETS, open_preset
from vos_core.cli.options import device_options, json_option, method_options, ops_option, output_options, split_names
from vos_core.cli.run import execute
from vos_core.errors import UsageError, WeightsError

_FOLDER = click.Path(path_type=Path)


@click.command("eval")
@click.option("--dataset", "--preset", type=click.Choice(list(PRESETS)), required=True, help="Which benchmark.")
@click.option("--data-root", "--data_root", type=_FOLDER, required=True, help="Folder of the data set.")
@click.option("--split", metavar="NAME", help="val, test-dev, valid, train, test [default: the benchmark's].")
@click.option("--only", metavar="A,B", help="Names of the clips to take, separated by commas.")
@click.option("--all-first-masks", is_flag=True, help="Give every object where it first appears (LVOS, VOST: as published not).")
@click.option("--log", "log_folder", type=_FOLDER, help="Folder of training runs: evaluate the newest weights of one.")
@click.option("--exp_name", "--exp-name", default="default", show_default=True, help="With --log: name of the run.")
@click.option("--stage", default="pre", show_default=True, help="With --log: stage of the run.")
@click.option(
    "--ckpt_step", "--ckpt-step", type=click.IntRange(0), help="With --log: step of the checkpoint [default: the newest]."
)
@click.option(
    "--ema/--no_ema",
    " /--no-ema",
    "average",
    default=None,
    help="With --log: weights averaged over training [default], or the last.",
)
@refused_option("--fix_random")
@refused_option("--debug_fix_random")
@rmem_options
@output_options
@method_options
@device_options
@ops_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    dataset: str,
    data_root: Path,
    split: str | None,
    only: str | None,
    all_first_masks: bool,
    log_folder: Path | None,
    exp_name: str,
    stage: str,
    ckpt_step: int | None,
    average: bool | None,
    **options: Any,
) -> None:
    """Segment a benchmark with the settings of its published numbers; score the result with vos eval.

    Options on the command line go before those of the preset. --log FOLDER takes the weights from a run of rmem-deaot train
    (averages over training, as published, or with --no_ema the weights as they were) instead of --ckpt_path.

    Example: rmem-deaot eval --dataset davis2017 --data-root DAVIS --ckpt_path R50_DeAOTL_temp_pe_10wstep_80000.pth --output out
    """
    from vos_core.cli.clips import Selection

    chosen = take_rmem_options(options, preset=dict(PRESETS[dataset].options))
    if log_folder is not None:
        if chosen["weights"] != "auto":
            raise UsageError("--log and --ckpt_path were given", fix="Give one of them")
        model = chosen["variant"] or next(iter(METHOD.variants[1:]))
        run = log_folder / f"{exp_name}_{model}" / stage
        chosen["weights"] = str(trained_weights(run, ckpt_step, average=average is not False))
    elif average is not None:
        raise UsageError("--ema or --no_ema was given without --log", fix="Name the folder of training runs, or leave it out")
    clips = open_preset(dataset, data_root, split, all_first_masks=all_first_masks)
    if only is not None:
        wanted = split_names(only)
        known = {clip.name: clip for clip in clips}
        unknown = [name for name in wanted if name not in known]
        if unknown or not wanted:
            raise UsageError(f"no clips are called {', '.join(unknown) or repr(only)}", expected=f"names such as {min(known)}")
        clips = tuple(known[name] for name in dict.fromkeys(wanted))
    context.exit(execute(METHOD, opened=Selection(clips), **chosen))


def trained_weights(run: Path, step: int | None, *, average: bool = True) -> Path:
    """Return the weights that a training run left, the newest or those of `step`.

    Args:
        run: folder of a stage, which `rmem-deaot train` names `<output>/<exp_name>_<model>/<stage>`; any case of the stage.
        step: which one.
        average: the averaged weights, or those that a step ended with.

    Raises:
        WeightsError: there are none.
    """
    beside = {path.name.lower(): path for path in run.parent.iterdir()} if run.parent.is_dir() else {}
    folder = beside.get(run.name.lower(), run)
    name = "checkpoint_"
    if average:
        folder, name = folder / "ema_ckpt", "save_step_"
    found = {int(match[1]): path for path in folder.glob(f"{name}*") if (match := re.search(r"_(\d+)\.\w+$", path.name))}
    if not found or (step is not None and step not in found):
        have = f"steps {sorted(found)}" if found else "no checkpoint"
        raise WeightsError(f"{folder} holds {have}", expected=f"{name}{'<step>' if step is None else step}.pth")
    return found[max(found) if step is None else step]
