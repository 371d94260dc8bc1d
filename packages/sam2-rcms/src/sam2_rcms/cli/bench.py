"""`sam2-rcms bench`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sam2_rcms.config import PRESETS
from vos_core.cli.options import compute_options, json_option
from vos_core.contract import BuildRequest
from vos_core.errors import UsageError


@click.command("bench")
@click.option(
    "--variant", "--sam2_cfg", "--sam2-cfg", type=click.Choice(list(PRESETS)), default="tiny", show_default=True, help="Preset."
)
@click.option("--weights", metavar="NAME|FILE|random", default="random", show_default=True, help="Speed does not depend on them.")
@click.option("--image-size", "--image_size", type=click.IntRange(32), default=1024, show_default=True, help="Network's side.")
@click.option("--objects", metavar="A,B", default="1,2", show_default=True, help="Numbers of objects to follow.")
@click.option("--frames", type=click.IntRange(3), default=8, show_default=True, help="Frames of each measurement.")
@click.option(
    "--video", type=click.Path(path_type=Path), help="Video file or folder of frames [default: a moving texture, 480p]."
)
@click.option("--batch-objects/--no-batch-objects", default=True, show_default=True, help="Compute objects together.")
@compute_options
@json_option
def command(
    variant: str,
    weights: str,
    image_size: int,
    objects: str,
    frames: int,
    video: Path | None,
    batch_objects: bool,
    device: str,
    precision: Any,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure seconds per frame, where they go, and peak memory on this machine.

    The first frame (prompts) and the second (warming up) are not counted. Run it on an idle machine.

    Example: sam2-rcms bench --variant b+ --objects 1,2,8 --precision bf16
    """
    from sam2_rcms import build
    from sam2_rcms.bench import bench_frames, measure
    from vos_core.run.device import apply_threads, check_precision, choose_device
    from vos_core.weights.registry import resolve

    counts = _counts(objects)
    device = choose_device(device)
    check_precision(precision, device)
    apply_threads(threads)
    import torch

    if threads:
        torch.set_num_threads(threads)
    path = None if weights == "random" else resolve(weights, method="sam2-rcms").path
    options = {"image_size": image_size, "batch_objects": batch_objects}
    segmenter = build(BuildRequest(variant=variant, weights=path, device=device, precision=precision, options=options))
    pictures = bench_frames(video, frames)
    speeds = []
    for count in counts:
        speeds.append(measure(segmenter, pictures, objects=count))
        if not as_json:
            click.echo(
                _line(speeds[-1]) if len(speeds) > 1 else f"{_head(variant, image_size, device, precision)}\n{_line(speeds[-1])}"
            )
    if as_json:
        settings = {"variant": variant, "image_size": image_size, "device": device, "precision": precision}
        click.echo(json.dumps({**settings, "threads": torch.get_num_threads(), "speeds": [asdict(speed) for speed in speeds]}))


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UsageError(f"--objects {text} is no list of numbers", expected="for example 1,2,8")
    return counts


def _head(variant: str, image_size: int, device: str, precision: str) -> str:
    columns = f"{'objects':>7} {'s/frame':>8} {'encoder':>8} {'attention':>9} {'decoder':>8} {'memory enc.':>11} {'peak MiB':>9}"
    return f"{variant}, {image_size} px, {device}, {precision}; median seconds per frame\n{columns}"


def _line(speed: Any) -> str:
    stages = " ".join(f"{seconds:>{width}.3f}" for seconds, width in zip(speed.stages.values(), (8, 9, 8, 11), strict=True))
    return f"{speed.objects:>7} {speed.seconds_per_frame:>8.3f} {stages} {speed.peak_memory_bytes / 2**20:>9.0f}"
