"""`stcn-ttt ttt`: adapt to every video, segment it, score it, one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from stcn_ttt import METHOD
from stcn_ttt.cli.datasets import Places, only_listed, open_dataset, read_list
from stcn_ttt.cli.ttt_options import given_ttt_options, ttt_options
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.weights import NAMES
from vos_core.cli.clips import select_clips
from vos_core.cli.options import clip_options, compute_options, json_option
from vos_core.config import build_config
from vos_core.errors import UsageError
from vos_core.types import Clip

_PATH = click.Path(path_type=Path)


@click.command("ttt")
@click.option("--dataset_name", "--dataset-name", type=click.Choice(["davis", "youtube", "mose", "davis-c"]), help="Benchmark.")
@click.option("--dataset_dir", "--dataset-dir", type=_PATH, help="Its folder: DAVIS/2017, YouTube2018 or MOSE.")
@click.option("--corrupted_image_dir", "--corrupted-image-dir", type=_PATH, help="Frames of one corruption (davis-c).")
@click.option("--video_set_filename", "--video-set-filename", type=_PATH, help="Text file with one clip name per line.")
@clip_options
@click.option(
    "--base", "bases", multiple=True, metavar="NAME", help="Released configuration; repeatable, one line of the table each."
)
@click.option("--config", "config_files", type=_PATH, multiple=True, help="YAML files over it, the last one winning.")
@ttt_options
@click.option("--weights", metavar="NAME|FILE|random", help="Offline weights in place of each configuration's own.")
@click.option("--res", type=int, metavar="PX", help="Shorter side when segmenting, -1 = as it is [default: 480].")
@click.option("--no-ttt", "baseline", is_flag=True, help="Also segment without adapting (alone, if no --base is given).")
@click.option("--seed", "seeds", type=click.IntRange(0), multiple=True, default=(1,), show_default=True, help="Repeatable.")
@click.option("-o", "--output_dir", "--output", "output", type=_PATH, required=True, help="Folder of masks and tables.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Worker processes over videos.")
@compute_options
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    dataset_name: str | None,
    dataset_dir: Path | None,
    corrupted_image_dir: Path | None,
    video_set_filename: Path | None,
    bases: tuple[str, ...],
    config_files: tuple[Path, ...],
    weights: str | None,
    res: int | None,
    baseline: bool,
    seeds: tuple[int, ...],
    output: Path,
    processes: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Adapt STCN to each video by a self-supervised loss, segment it, and score what has ground truth.

    Released configurations: stcn_mcc, stcn_ent, stcn_ae, and the same with stcn_s01_ and stcn_s0_. Values: option over YAML over
    configuration. Masks go to OUTPUT/<configuration>/<seed>/final, the comparison to OUTPUT/table.md and table.json.

    Example: stcn-ttt ttt --dataset_name davis --dataset_dir DAVIS/2017 --base stcn_s01_mcc --no-ttt --seed 1 --output out
    """
    from stcn_ttt.adapt.experiment import BASELINE, Arm, format_rows, run_experiment, write_tables

    changed = given_ttt_options(context, options)
    clips = _clips(dataset_name, dataset_dir, corrupted_image_dir, video_set_filename, options)
    names: list[str | None] = list(bases)
    if not names and (config_files or changed or not baseline):
        names = [None]
    extra = {} if res is None else {"res": res}
    build_config(SegmenterConfig, extra)  # refuses a wrong value before anything is written
    arms = [_arm(name, config_files, changed, weights, extra) for name in names]
    if baseline:
        first = arms[0] if arms else _arm(None, config_files, changed, weights, extra)
        half = _half(options) if first.options["amp"] else None  # as the arms that it is compared with
        arms.insert(0, Arm(BASELINE, None, first.weights, _segmenting(first) | extra, first.overwrite, half))
    if len({arm.name for arm in arms}) < len(arms):
        raise UsageError("two configurations have one name", fix="Give each its own --config_name, or run them one by one")
    shared = {"device": options["device"], "precision": options["precision"], "threads": options["threads"]}
    with _progress(clips) as bar:
        trials = run_experiment(
            METHOD,
            arms,
            clips,
            seeds=seeds,
            output=output,
            processes=processes,
            on_progress=bar.update,
            **shared,
        )
    rows = write_tables(trials, output)
    click.echo(json.dumps(rows, indent=2) if as_json else format_rows(rows), nl=as_json)
    failed = sorted({clip for trial in trials for clip in trial.failed})
    if failed:
        click.echo(f"{len(failed)} clips failed: {', '.join(failed)}; see run.json beside their masks", err=True)
    context.exit(1 if failed else 0)


def _clips(
    dataset: str | None, folder: Path | None, corrupted: Path | None, listed: Path | None, options: dict[str, Any]
) -> tuple[Clip, ...]:
    names = ("clips", "layout", "root", "split", "video", "mask", "only")
    chosen = {name: options.pop(name) for name in names}
    if dataset is None:
        if folder is not None or corrupted is not None:
            raise UsageError(
                "--dataset_dir was given without --dataset_name", fix="Add --dataset_name davis, youtube, mose or davis-c"
            )
        clips = select_clips(**chosen).clips
    else:
        if folder is None:
            raise UsageError(f"--dataset_name {dataset} was given without --dataset_dir", fix="Add --dataset_dir FOLDER")
        clips = open_dataset(dataset, Places.of(dataset, folder, corrupted), chosen["split"])
        if chosen["only"] is not None:
            clips = only_listed(clips, chosen["only"].split(","), where="--only")
    return only_listed(clips, read_list(listed), where=str(listed)) if listed is not None else clips


def _arm(name: str | None, files: tuple[Path, ...], changed: dict[str, Any], weights: str | None, extra: dict[str, Any]) -> Any:
    from stcn_ttt.adapt.config import load_config
    from stcn_ttt.adapt.experiment import Arm

    config = load_config(name, files, changed)
    return Arm(
        name=config.config_name,
        variant=name or "ttt",
        weights=weights or _registered(config.model_filename),
        options=config.model_dump(mode="json") | extra,
        overwrite=config.overwrite,
    )


def _registered(filename: str) -> str:
    """Return a released weight's name where the file that a configuration names is not there, else the file."""
    path = Path(filename)
    return path.stem if not path.is_file() and path.stem in NAMES else filename


def _segmenting(arm: Any) -> dict[str, Any]:
    return {key: arm.options[key] for key in ("top", "mem_every", "include_last")}


def _half(options: dict[str, Any]) -> Any:
    """Return the precision that `amp` means on the chosen device, unless a half precision was asked for anyway."""
    from vos_core.run.device import choose_device

    if options["precision"] != "fp32":
        return options["precision"]
    return "bf16" if choose_device(options["device"]) == "cpu" else "fp16"


def _progress(clips: tuple[Clip, ...]) -> Any:
    from vos_core.cli.progress import ProgressBar

    return ProgressBar(clips)
