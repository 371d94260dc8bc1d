"""Options that all method command lines share, and what they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def json_option(function: F) -> F:
    """Add `--json` (`as_json`)."""
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout.")(function)


def processes_option(function: F) -> F:
    """Add `-n/--processes` with the number of CPUs as default (None)."""
    return click.option("-n", "--processes", type=click.IntRange(1), help="Workers at a time [default: the number of CPUs].")(
        function
    )


def device_options(function: F) -> F:
    """Add `--device`, `--precision`, `--threads` and `--seed`."""
    seed = click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of everything random.")
    return compute_options(seed(function))


def compute_options(function: F) -> F:
    """Add `--device`, `--precision` and `--threads`."""
    return _stack(
        click.option("--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda or cuda:<index>."),
        click.option(
            "--precision",
            type=click.Choice(["fp32", "bf16", "fp16"]),
            default="fp32",
            show_default=True,
            help="fp32 is exact; bf16 is much faster on GPUs and on recent CPUs; fp16 is for GPUs.",
        ),
        click.option("--threads", type=click.IntRange(1), help="CPU threads for computing [default: the libraries' choice]."),
    )(function)


def training_options(function: F) -> F:
    """Add what every `train` command shares.

    The function receives `output` (Path), `device`, `precision` (None = the recipe's own), `threads`, `num_workers`,
    `accumulate`, `seed` and `save_every` (None = the recipe's own), `tensorboard` and `as_json`.
    """
    return _stack(
        click.option(
            "-o", "--output", type=click.Path(path_type=Path), default=Path("saves"), show_default=True, help="Folder of runs."
        ),
        click.option("--accumulate", type=click.IntRange(1), default=1, show_default=True, help="Batches per step."),
        click.option(
            "--num-workers", "--num_workers", type=click.IntRange(0), default=8, show_default=True, help="Loader processes."
        ),
        click.option("--save-every", type=click.IntRange(1), help="Steps between checkpoints [default: the recipe's]."),
        click.option(
            "--device", default="auto", show_default=True, metavar="NAME", help="auto, cpu, cuda; torchrun deals out GPUs."
        ),
        click.option(
            "--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="[default: the recipe's on CUDA, else fp32]"
        ),
        click.option("--threads", type=click.IntRange(1), help="CPU threads for computing [default: the libraries' choice]."),
        click.option("--seed", type=click.IntRange(0), help="Seed of everything random [default: the recipe's]."),
        click.option("--tensorboard", is_flag=True, help="Also write TensorBoard logs (extra vos-core[train])."),
        json_option,
    )(function)


def ops_option(function: F) -> F:
    """Add `--ops`."""
    return click.option(
        "--ops", metavar="BACKEND", help="Backend of all ops, or op=backend,...: auto, torch, triton, opencv, winograd."
    )(function)


def method_options(function: F) -> F:
    """Add `--variant`, `--weights`, `--config` and `--set`."""
    return _stack(
        click.option("--variant", metavar="NAME", help="Form of the method; see: vos methods NAME [default: its first]."),
        click.option(
            "--weights",
            default="auto",
            show_default=True,
            metavar="NAME|FILE|random",
            help="Checkpoint: a registered name, a file, or random for untrained weights.",
        ),
        click.option("--config", "config_file", type=click.Path(path_type=Path), help="YAML file with the method's options."),
        click.option(
            "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set an option; repeatable; see: vos methods NAME."
        ),
    )(function)


def clip_options(function: F) -> F:
    """Add the three ways to name clips: `--clips`, `--layout --root --split`, `--video --mask`; and `--only`."""
    return _stack(
        click.option("--clips", type=click.Path(path_type=Path), help="Folder of clips: JPEGImages and Annotations."),
        click.option(
            "--layout", metavar="NAME", help="Data set layout, such as davis or davis:year=2016; see: vos data check --help."
        ),
        click.option("--root", type=click.Path(path_type=Path), help="Root folder of the data set (with --layout)."),
        click.option("--split", metavar="NAME", help="Split of the data set (with --layout)."),
        click.option("--video", type=click.Path(path_type=Path), help="Video file or folder of frames (with --mask)."),
        click.option("--mask", type=click.Path(path_type=Path), help="Mask of the first frame (with --video)."),
        click.option("--only", metavar="A,B", help="Names of the clips to take, separated by commas."),
    )(function)


def output_options(function: F) -> F:
    """Add where results go and how a repeated run treats what is there."""
    return _stack(
        click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder for masks and run.json."),
        click.option("--resume/--no-resume", default=True, show_default=True, help="Keep clips that are done, or run all again."),
        click.option("--overwrite", is_flag=True, help="Replace masks in --output that other settings made."),
        click.option("-n", "--processes", type=click.IntRange(1), default=1, show_default=True, help="Worker processes."),
        click.option(
            "--scheduler",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="Where workers live: local processes or Ray actors.",
        ),
        click.option("--overlay", type=click.Choice(["webm", "mp4"]), help="Also write a video with painted objects per clip."),
        click.option("--soft", type=click.Path(path_type=Path), help="Also write probabilities (npz) to this folder."),
        click.option(
            "--palette",
            type=click.Choice(["davis", "aot", "first"]),
            default="davis",
            show_default=True,
            help="Colours of mask files; first copies those of the first mask.",
        ),
        click.option(
            "--object-masks", is_flag=True, help="Write <clip>/<object>/<frame>.png, a file per object, instead of label maps."
        ),
        click.option("--flip", is_flag=True, help="Average with the mirrored clip."),
        click.option("--scales", metavar="A,B", help="Average over these scales, for example 1.0,1.3."),
    )(function)


def run_options(function: F) -> F:
    """Add everything that running a method takes; the function receives it as keyword arguments."""
    return _stack(clip_options, output_options, method_options, device_options, ops_option, json_option)(function)


def split_names(text: str) -> list[str]:
    """Return the names in a list such as `A, B`, without the spaces around them; nothing between commas is no name.

    >>> split_names("dog, cat,")
    ['dog', 'cat']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def parse_scales(text: str | None) -> tuple[float, ...]:
    """Return scale factors from `1.0,1.3`; `(1.0,)` without text."""
    if text is None:
        return (1.0,)
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--scales {text} is not a list of numbers", expected="for example 1.0,1.3") from None


def given(context: click.Context, name: str) -> bool:
    """Return whether the user set parameter `name`, as opposed to its default."""
    return context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)
