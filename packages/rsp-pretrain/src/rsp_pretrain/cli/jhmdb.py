"""`rsp-pretrain jhmdb`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rsp_pretrain.cli.probe_options import (
    ENCODER_OPTIONS,
    context_options,
    encoder_options,
    parse_size,
    print_problems,
    print_run,
    taken,
)
from vos_core.cli.options import json_option, split_names
from vos_core.errors import UsageError

_PATH = click.Path(path_type=Path)


@click.command("jhmdb")
@click.option("--root", "--data_path", "--data-path", type=_PATH, required=True, help="Holds Rename_Images and joint_positions.")
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True, help="Of splits/.")
@click.option("--fold", type=click.IntRange(1, 3), default=1, show_default=True, help="Which of the three splits.")
@click.option("--filelist", type=_PATH, help="In place of the split: frame folder and joint file of a clip on each line.")
@click.option("--only", metavar="A,B", help="Names of the clips to take, <class>/<clip>.")
@click.option("--check", is_flag=True, help="Look for faults of the data and stop.")
@click.option("-o", "--output", "--output_dir", "--output-dir", type=_PATH, help="Folder of joint positions and run.json.")
@context_options(topk=7, size="320,320", batch=4)
@click.option("--sigma", type=float, help="Of the joints' stamps in tokens [default: 0.5].")
@click.option("--cells", type=click.IntRange(1), help="Strongest tokens that place a joint [default: 5; videowalk took 3].")
@encoder_options
@click.option("--resume/--no-resume", default=True, show_default=True, help="Keep clips that are done, or run all again.")
@click.option("--overwrite", is_flag=True, help="Replace results in --output that other settings made.")
@click.option("-n", "--processes", type=click.IntRange(1), default=1, show_default=True, help="Worker processes.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    /,
    root: Path,
    split: str,
    fold: int,
    filelist: Path | None,
    only: str | None,
    check: bool,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    processes: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Propagate the joints of each clip's first frame and score them: PCK@0.1 ... 0.5 by the public protocol.

    Size 320x320, temperature 0.7, top 7, radius 20 and 20 frames are defaults of the protocol's ViT port; those behind published
    numbers were searched for and are not public.

    Example: rsp-pretrain jhmdb --root /data/JHMDB --weights rsp_vit_small_patch16 --output out/jhmdb
    """
    if output is None and not check:
        raise UsageError("no --output was given", fix="Pass --output FOLDER, or --check to look at the data alone")
    from rsp_pretrain.probe.jhmdb import PoseConfig, run_jhmdb, select_clips

    clips, findings = select_clips(
        root, split=split, fold=fold, filelist=filelist, only=None if only is None else split_names(only)
    )
    if output is None or check:
        from rsp_pretrain.cli.data_faults import print_faults
        from rsp_pretrain.probe.jhmdb import as_video_set, check_joints

        found = as_video_set(clips, root, split=split, findings=findings)
        print_faults(context, found, as_json=as_json, extra=check_joints(clips))
    from rsp_pretrain.probe.session import open_encoder
    from vos_core.cli.progress import CountBar
    from vos_core.config import build_config

    given = taken(options, "temperature", "topk", "radius", "video_len", "size", "batch", "sigma", "cells")
    if "size" in given:
        given["size"] = parse_size(given["size"])
    config = build_config(PoseConfig, given)
    faults = print_problems(findings.problems)
    loaded = open_encoder(**{name: options[name] for name in ENCODER_OPTIONS})
    if loaded.report:
        click.echo(loaded.report, err=True)
    with CountBar("clip") as bar:
        record = run_jhmdb(
            clips, output, loaded, config, resume=resume, overwrite=overwrite, processes=processes, on_clip=bar.reach
        )
    print_run(context, record, faults=faults, as_json=as_json)
