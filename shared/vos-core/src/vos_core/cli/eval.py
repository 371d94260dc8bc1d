"""`vos eval`: scores of masks by the rules of each benchmark's official tool."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vos_core.cli.eval_output import Output, run
from vos_core.cli.options import json_option, processes_option, split_names
from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)


def _common(function: F) -> F:
    for option in (
        json_option,
        click.option(
            "-o",
            "--output",
            type=click.Path(path_type=Path),
            help="Folder for tables and results.json [default: the results].",
        ),
        click.option(
            "--missing",
            type=click.Choice(["error", "empty"]),
            default="error",
            show_default=True,
            help="What an absent predicted mask is: a mistake, or an empty mask.",
        ),
        click.option(
            "--reuse/--re",
            default=False,
            help="Take stored scores if neither masks nor options changed, or score again [default].",
        ),
    ):
        function = option(function)
    return function


LEGACY_DECAY = click.option(
    "--legacy-decay", is_flag=True, help="Keep the official tool's wrong decay for 256 scored frames and more."
)


@click.group("eval")
def command() -> None:
    """Score masks against ground truth by a benchmark's protocol.

    Example: vos eval davis --davis-path DAVIS --results-path out
    """


@command.command()
@click.option(
    "--davis-path", type=FOLDER, required=True, help="DAVIS root, flat or split by year; needs annotations and lists only."
)
@click.option("--results-path", type=FOLDER, required=True, help="Folder with one sub-folder of PNG masks per sequence.")
@click.option("--set", "split", default="val", show_default=True, help="Name of the sequence list.")
@click.option(
    "--task",
    type=click.Choice(["semi-supervised", "unsupervised"]),
    default="semi-supervised",
    show_default=True,
    help="Protocol.",
)
@click.option("--year", type=click.Choice(["2017", "2016"]), default="2017", show_default=True, help="2016 merges all objects.")
@click.option("--resolution", default="480p", show_default=True, help="Folder below the annotations.")
@click.option("--sequences", metavar="A,B", help="Score only these sequences.")
@click.option(
    "--max-proposals", type=click.IntRange(1), default=20, show_default=True, help="Highest id in the unsupervised task."
)
@click.option(
    "--format", "formats", default="csv,json", show_default=True, help="Files to write: csv, json, txt (the server's scores.txt)."
)
@processes_option
@LEGACY_DECAY
@_common
def davis(
    davis_path: Path,
    results_path: Path,
    split: str,
    task: str,
    year: str,
    resolution: str,
    sequences: str | None,
    max_proposals: int,
    formats: str,
    processes: int | None,
    legacy_decay: bool,
    **common: Any,
) -> None:
    """Score DAVIS 2017 or 2016 results, semi-supervised or unsupervised.

    Example: vos eval davis --davis-path DAVIS --results-path out --set val -n 8
    """
    from vos_core.metrics.davis import DavisSemi, DavisUnsupervised
    from vos_core.metrics.roots import davis_jobs

    kinds = split_names(formats)
    if not kinds or not set(kinds) <= {"csv", "json", "txt"}:
        raise UsageError(f"--format {formats} names an unknown format", expected="csv, json, txt, or several with commas")
    only = split_names(sequences) if sequences else []
    if year == "2016" and task == "unsupervised":
        raise UsageError("DAVIS 2016 has one object a sequence, so nothing is matched", fix="Use --task semi-supervised")
    jobs, warnings = davis_jobs(
        davis_path, results_path, split=split, task=task, year=int(year), resolution=resolution, only=only
    )
    protocol: DavisSemi | DavisUnsupervised
    if task == "unsupervised":
        protocol = DavisUnsupervised(split, missing=common["missing"], max_proposals=max_proposals, legacy_decay=legacy_decay)
    else:
        protocol = DavisSemi(split, binary=year == "2016", missing=common["missing"], legacy_decay=legacy_decay)
    run(protocol, jobs, Output(common, default=results_path, kinds=tuple(kinds)), processes=processes, warnings=warnings)


@command.command()
@click.option("-g", "--gt", "truth", type=FOLDER, required=True, help="Ground truth: one sub-folder of PNG masks per video.")
@click.option("-m", "--mask", "prediction", type=FOLDER, required=True, help="Results: the same sub-folders.")
@processes_option
@click.option("-s", "--strict", is_flag=True, help="Both sides must hold the same videos; else the common ones are scored.")
@click.option("-d", "--do-not-skip-first-and-last-frame", "all_frames", is_flag=True, help="Score the first and last frame too.")
@click.option("--binary", is_flag=True, help="Merge all objects on both sides; for 0/255 masks.")
@_common
def folder(
    truth: Path, prediction: Path, processes: int | None, strict: bool, all_frames: bool, binary: bool, **common: Any
) -> None:
    """Score one folder of masks against another by the rules of vos-benchmark.

    Example: vos eval folder -g DAVIS/Annotations/480p -m out -n 8
    """
    from vos_core.metrics.folder import FolderProtocol, pair_folders

    jobs, differing = pair_folders(truth, prediction, strict=strict)
    protocol = FolderProtocol(skip_first_and_last=not all_frames, binary=binary, missing=common["missing"])
    run(protocol, jobs, Output(common, default=prediction), processes=processes, warnings=_left_out(differing))


@command.command()
@click.option(
    "--gt_root", "--gt-root", type=FOLDER, required=True, help="Annotations_6fps: per video one folder per object, or label maps."
)
@click.option(
    "--pred_root", "--pred-root", type=FOLDER, required=True, help="Results in the same layout; further frames are ignored."
)
@processes_option
@click.option("-s", "--strict", is_flag=True, help="Both sides must hold the same videos; else the common ones are scored.")
@click.option("-d", "--do-not-skip-first-and-last-frame", "all_frames", is_flag=True, help="Score the first and last frame too.")
@_common
def sav(gt_root: Path, pred_root: Path, processes: int | None, strict: bool, all_frames: bool, **common: Any) -> None:
    """Score SA-V results.

    Example: vos eval sav --gt_root sav_val/Annotations_6fps --pred_root out
    """
    from vos_core.metrics.folder import SavProtocol, pair_folders

    jobs, differing = pair_folders(gt_root, pred_root, strict=strict)
    protocol = SavProtocol(skip_first_and_last=not all_frames, missing=common["missing"])
    run(protocol, jobs, Output(common, default=pred_root), processes=processes, warnings=_left_out(differing))


@command.command()
@click.option("--lvos_path", "--lvos-path", type=FOLDER, required=True, help="LVOS root, or one split of it.")
@click.option(
    "--results_path", "--results-path", type=FOLDER, required=True, help="Folder with one sub-folder of masks per video."
)
@click.option("--set", "split", default="valid", show_default=True, help="Split.")
@click.option(
    "--task", type=click.Choice(["semi", "unsup_single", "unsup_multiple"]), default="semi", show_default=True, help="Protocol."
)
@click.option("--unseen", type=FILE, help="List of the videos of unseen categories [default: unseen_videos.txt of the data set].")
@click.option(
    "-n", "--processes", "--mp_nums", "--mp-nums", "processes", type=click.IntRange(1),
    help="Workers at a time [default: the number of CPUs].",
)  # fmt: skip
@click.option(
    "--legacy-range", is_flag=True, help="Unsupervised: divide by a frame that was not scored, as the official tool does."
)
@_common
def lvos(
    lvos_path: Path,
    results_path: Path,
    split: str,
    task: Any,
    unseen: Path | None,
    processes: int | None,
    legacy_range: bool,
    **common: Any,
) -> None:
    """Score LVOS results, semi-supervised or unsupervised.

    Example: vos eval lvos --lvos_path LVOS --results_path out --set valid
    """
    from vos_core.data.listing import read_meta
    from vos_core.metrics.lvos import LvosProtocol, lvos_jobs
    from vos_core.metrics.roots import lvos_files, read_names

    if legacy_range and task == "semi":
        raise UsageError("--legacy-range changes the unsupervised tasks only", fix="Leave it out or choose another --task")
    masks, meta, unseen = lvos_files(lvos_path, split=split, unseen=unseen)
    names = frozenset() if unseen is None else frozenset(read_names(unseen))
    warnings = (
        []
        if unseen is not None
        else [f"{masks.parent} has no unseen_videos.txt: all videos count as seen (--unseen names a list)"]
    )
    jobs = lvos_jobs(read_meta(meta), masks, results_path)
    protocol = LvosProtocol(task, unseen=names, set_name=split, missing=common["missing"], legacy_range=legacy_range)
    run(protocol, jobs, Output(common, default=results_path), processes=processes, warnings=warnings)


@command.command()
@click.option("--dataset_path", "--dataset-path", type=FOLDER, required=True, help="VOST root with Annotations and ImageSets.")
@click.option(
    "--results_path", "--results-path", type=FOLDER, required=True, help="Folder with one sub-folder of masks per sequence."
)
@click.option("--set", "split", default="val", show_default=True, help="Name of the sequence list.")
@processes_option
@LEGACY_DECAY
@_common
def vost(dataset_path: Path, results_path: Path, split: str, processes: int | None, legacy_decay: bool, **common: Any) -> None:
    """Score VOST results: J and J_tr (J over the last quarter).

    Example: vos eval vost --dataset_path VOST --results_path out --set val --re
    """
    from vos_core.metrics.roots import vost_jobs
    from vos_core.metrics.transform import VostProtocol

    jobs = vost_jobs(dataset_path, results_path, split=split)
    protocol = VostProtocol(split, missing=common["missing"], legacy_decay=legacy_decay)
    run(protocol, jobs, Output(common, default=results_path), processes=processes)


@command.command()
@click.option("--meta", type=FILE, required=True, help="MOSEv2's scoring meta file: lengths and objects of all videos.")
@click.option("--ann", type=FOLDER, required=True, help="Annotations: one sub-folder of PNG masks per video.")
@click.option("--pred", type=FOLDER, required=True, help="Results, or a folder that holds only the results' folder.")
@processes_option
@_common
def mosev2(meta: Path, ann: Path, pred: Path, processes: int | None, **common: Any) -> None:
    """Score MOSEv2 results: J, adaptive F, disappearance and reappearance.

    Example: vos eval mosev2 --meta meta.json --ann Annotations --pred out --output scores
    """
    from vos_core.data.listing import read_meta
    from vos_core.metrics.mosev2 import MoseV2Protocol, mosev2_jobs

    jobs = mosev2_jobs(read_meta(meta), ann, pred)
    run(MoseV2Protocol(missing=common["missing"]), jobs, Output(common, default=pred), processes=processes)


@command.command()
@click.option("--gt", type=FOLDER, required=True, help="Annotations: one sub-folder of PNG masks per video.")
@click.option("--pred", type=FOLDER, required=True, help="Results: the same sub-folders.")
@click.option("--groups", type=FILE, required=True, help='JSON: {video: {id: "seen"|"unseen"}} or {"unseen": [category, ...]}.')
@click.option("--meta", type=FILE, help="YouTube-VOS's meta.json: categories and first frames of the objects.")
@processes_option
@_common
def ytvos(gt: Path, pred: Path, groups: Path, meta: Path | None, processes: int | None, **common: Any) -> None:
    """Score YouTube-VOS results against local masks, seen and unseen categories apart.

    Example: vos eval ytvos --gt train/Annotations --pred out --groups unseen.json --meta train/meta.json
    """
    from vos_core.data.listing import read_meta
    from vos_core.metrics.youtube import YoutubeProtocol, youtube_jobs

    described = None if meta is None else read_meta(meta)
    jobs = youtube_jobs(gt, pred, groups=read_meta(groups), meta=described)
    run(YoutubeProtocol(missing=common["missing"]), jobs, Output(common, default=pred), processes=processes)


@command.command()
@click.option("--gt", type=FOLDER, required=True, help="Annotations: one sub-folder of PNG masks per video; 255 is void.")
@click.option("--pred", type=FOLDER, required=True, help="Results: the same sub-folders, any number of tracks.")
@processes_option
@click.option("-s", "--strict", is_flag=True, help="Both sides must hold the same videos; else the common ones are scored.")
@LEGACY_DECAY
@_common
def trackeval(gt: Path, pred: Path, processes: int | None, strict: bool, legacy_decay: bool, **common: Any) -> None:
    """Score tracks whose ids need not agree with the truth, by TrackEval's J&F.

    Example: vos eval trackeval --gt Annotations_unsupervised/480p --pred out
    """
    from vos_core.metrics.folder import pair_folders
    from vos_core.metrics.trackeval import TrackEvalProtocol

    jobs, differing = pair_folders(gt, pred, strict=strict)
    protocol = TrackEvalProtocol(missing=common["missing"], legacy_decay=legacy_decay)
    run(protocol, jobs, Output(common, default=pred), processes=processes, warnings=_left_out(differing))


def _left_out(differing: list[str]) -> list[str]:
    if not differing:
        return []
    shown = ", ".join(differing[:5]) + (", ..." if len(differing) > 5 else "")
    return [f"{len(differing)} videos are on one side only and not scored: {shown}"]
