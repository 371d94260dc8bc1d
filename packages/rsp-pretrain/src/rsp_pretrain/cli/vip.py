"""`rsp-pretrain vip`."""

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


@click.command("vip")
@click.option("--root", "--data_path", "--data-path", type=_PATH, required=True, help="VIP_Fine: Images, Annotations, lists.")
@click.option("--split", type=click.Choice(["val", "train"]), default="val", show_default=True, help="Of lists/.")
@click.option("--only", metavar="A,B", help="Names of the clips to take.")
@click.option("--check", is_flag=True, help="Look for faults of the data and stop.")
@click.option("-o", "--output", "--output_dir", "--output-dir", type=_PATH, help="Folder of masks and run.json.")
@context_options(topk=10, size="880", batch=2)
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
    only: str | None,
    check: bool,
    output: Path | None,
    resume: bool,
    overwrite: bool,
    processes: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Propagate the body parts of each clip's first frame and score them: mean IoU over 20 classes by the public protocol.

    Longer side 880, temperature 0.7, top 10, radius 20 and 20 frames are defaults of the protocol's ViT port.

    Example: rsp-pretrain vip --root /data/VIP_Fine --weights rsp_vit_small_patch16 --output out/vip
    """
    if output is None and not check:
        raise UsageError("no --output was given", fix="Pass --output FOLDER, or --check to look at the data alone")
    from vos_core.data.vip import open_set

    found = open_set(root, split)
    if only is not None:
        found = found.subset(split_names(only))
    if output is None or check:
        from rsp_pretrain.cli.data_faults import print_faults

        print_faults(context, found, as_json=as_json)
    from rsp_pretrain.probe.session import open_encoder
    from rsp_pretrain.probe.vip import PartConfig, run_vip
    from vos_core.cli.progress import CountBar
    from vos_core.config import build_config

    given = taken(options, "temperature", "topk", "radius", "video_len", "size", "batch")
    if "size" in given:
        given["size"] = parse_size(given["size"])
    config = build_config(PartConfig, given)
    faults = print_problems(found.problems)
    loaded = open_encoder(**{name: options[name] for name in ENCODER_OPTIONS})
    if loaded.report:
        click.echo(loaded.report, err=True)
    with CountBar("clip") as bar:
        record = run_vip(
            found.clips, output, loaded, config, resume=resume, overwrite=overwrite, processes=processes, on_clip=bar.reach
        )
    print_run(context, record, faults=faults, as_json=as_json)
