"""Options that several commands share, in the words of the original: both spellings, and one dash where it had it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from object_pursuit.config import PRESETS
from object_pursuit.weights import is_none
from vos_core.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)


class OptionalPath(click.Path):
    """A path, or the word None, which the original's commands pass for "none"."""

    name = "path"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a path or None."""
        return None if is_none(value) else super().convert(value, param, ctx)


def words(name: str, *, short: str = "") -> tuple[str, ...]:
    """Return the spellings of an option: `--use_backbone`, `--use-backbone`, `-use_backbone`, and a short one.

    >>> words("z_dim", short="dim")
    ('--z_dim', '--z-dim', '-z_dim', '-dim')
    """
    found = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else []) + [f"-{name}"]
    return (*found, *([f"-{short}"] if short else []))


def network_options(function: F) -> F:
    """Add what the networks are, and the encoder's file: `preset`, `z_dim`, `use_backbone`, `backbone`."""
    return _stack(
        click.option("--preset", type=click.Choice(list(PRESETS)), help="Network without files; tiny is for 64-pixel images."),
        click.option(*words("z_dim", short="dim"), "z_dim", type=click.IntRange(1), help="Numbers in a code [default: 100]."),
        click.option(*words("use_backbone"), "use_backbone", is_flag=True, help="Share one encoder; else it is generated, too."),
        click.option(*words("backbone"), "backbone", type=OptionalPath(), help="backbone.pth or a joint checkpoint; None."),
    )(function)


hypernet_option = click.option(
    *words("hypernet"), "hypernet", type=OptionalPath(), help="hypernet.pth or a joint checkpoint; None."
)
"""Adds the hypernetwork's file: `hypernet`."""
init_option = click.option(
    "--backbone-init",
    "--backbone_init",
    default="torchvision",
    show_default=True,
    metavar="random|torchvision|FILE",
    help="Of an encoder without --backbone.",
)
"""Adds where an encoder without a file begins: `backbone_init`."""
encoder_norm_option = click.option(
    "--encoder-norm",
    "--encoder_norm",
    type=click.Choice(["batch", "running"]),
    default="batch",
    show_default=True,
    help="Statistics that a shared encoder's norms use: of the batch, as published, or those stored.",
)
"""Adds `encoder_norm`."""


def resize_option(function: F) -> F:
    """Add `--resize H W`."""
    return click.option(
        *words("resize"), "resize", nargs=2, type=click.IntRange(16), metavar="H W", help="Size of images [default: 256 256]."
    )(function)


def image_size(resize: tuple[int, int] | None, preset: str | None) -> tuple[int, int]:
    """Return height and width that images are resized to."""
    return resize if resize else ((64, 64) if preset == "tiny" else (256, 256))


def say(line: str) -> None:
    """Print a line of progress to stderr."""
    click.echo(line, err=True)


def write_run_file(out: Path, command: str, arguments: dict[str, Any]) -> None:
    """Write `run.json`: what was asked, versions, machine, sha256 of the files that came in."""
    from object_pursuit import METHOD
    from vos_core.io.atomic import write_json
    from vos_core.run.record import describe_environment
    from vos_core.weights.cache import sha256_of

    files = {name: value for name, value in arguments.items() if isinstance(value, Path) and value.is_file()}
    write_json(
        out / "run.json",
        {
            "command": command,
            "arguments": json.loads(json.dumps(arguments, default=str)),
            "argv": sys.argv[1:],
            "sha256": {name: sha256_of(path) for name, path in files.items()},
            "environment": describe_environment(METHOD),
        },
    )


def required(value: Any, option: str, what: str) -> Any:
    """Return `value`; raises `UsageError` where it is absent."""
    if value is None or value == ():
        raise UsageError(f"{option} is missing", expected=what)
    return value


def _stack(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate
