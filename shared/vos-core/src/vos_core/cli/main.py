"""The `vos` group. Commands are imported when they are asked for, so `vos --help` stays fast."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from vos_core.__about__ import __version__
from vos_core.errors import VosError

COMMANDS = {
    "run": ("vos_core.cli.run", "Follow objects through clips with one method and write masks."),
    "eval": ("vos_core.cli.eval", "Score masks against ground truth by a benchmark's protocol."),
    "compare": ("vos_core.cli.compare", "Run several methods over the same clips and write one table and page."),
    "report": ("vos_core.cli.report", "Write the page for runs that already exist."),
    "weights": ("vos_core.cli.weights", "List, download, check and convert checkpoints."),
    "data": ("vos_core.cli.data", "Check, convert and generate data sets."),
    "mask": ("vos_core.cli.mask", "Convert masks between PNG, RLE JSON and npz."),
    "pack": ("vos_core.cli.pack", "Check results and build a benchmark server's zip."),
    "methods": ("vos_core.cli.methods", "List installed methods and their options."),
    "doctor": ("vos_core.cli.doctor", "Print versions, devices, codecs and caches for a bug report."),
    "completion": ("vos_core.cli.completion", "Print the shell completion script."),
}


class LazyGroup(click.Group):
    """A click group that imports the module of a command on first use.

    Args:
        commands_table: command name -> (module with an attribute `command`, one-line help).
    """

    def __init__(self, *args: Any, commands_table: dict[str, tuple[str, str]] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_table = commands_table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the table's order."""
        return list(self.commands_table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, importing its module; None if there is none of that name."""
        if cmd_name not in self.commands_table:
            return None
        command: click.Command = importlib.import_module(self.commands_table[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table's one-line helps, which costs no import."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.commands_table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; print a `VosError` as one message and leave with its exit code."""
        try:
            with _plain_warnings():
                return super().invoke(ctx)
        except VosError as error:
            raise _Failure(error) from error


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Print warnings that are meant for users as one line, without a place in the code, in the block."""
    before = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        return f"Warning: {message}\n" if issubclass(category, UserWarning) else before(message, category, *place, **line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = before


class _Failure(click.ClickException):
    def __init__(self, error: VosError) -> None:
        super().__init__(str(error))
        self.exit_code = error.exit_code  # type: ignore[misc] # declared for the class, read from the instance


@click.group(cls=LazyGroup, commands_table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vos")
def main() -> None:
    """Follow objects through video with masks: run methods, score them, compare them.

    Example: vos run --method flow --video clip.mp4 --mask first.png --output out
    """
