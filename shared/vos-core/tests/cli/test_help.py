"""What all commands have in common: help that can be read, the same options for the same things, no torch before it is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from vos_core.cli.main import LazyGroup, main
from vos_core.data.layout import LAYOUTS


def tree(command: click.Command, path: tuple[str, ...] = ("vos",)) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from tree(child, (*path, name))


COMMANDS = dict(tree(main))
LEAVES = {path: command for path, command in COMMANDS.items() if not isinstance(command, click.Group)}
each = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
each_leaf = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


@each
def test_help_begins_with_a_verb_and_ends_with_an_example(path: tuple[str, ...]) -> None:
    text = CliRunner().invoke(main, [*path[1:], "--help"])
    assert text.exit_code == 0
    about = COMMANDS[path].help or ""
    first = about.split()[0].rstrip(",")
    assert re.fullmatch("[A-Z][a-z]+", first), about
    assert not first.endswith("s"), f"{first}: an order, such as Print"
    example = about.strip().splitlines()[-1].strip()
    assert example.startswith("Example: " + (" ".join(path) if path != ("vos",) else "vos run ")), about
    assert "Example: " in text.output


@each
def test_one_line_helps_are_those_of_the_commands(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    if isinstance(command, LazyGroup):
        for name, (_, line) in command.commands_table.items():
            assert line.split()[0] == (COMMANDS[(*path, name)].help or "").split()[0]


@each_leaf
def test_examples_parse(path: tuple[str, ...]) -> None:
    words = (LEAVES[path].help or "").strip().splitlines()[-1].split()[len(path) + 1 :]
    takes = {text for item in LEAVES[path].params for text in (*item.opts, *item.secondary_opts)}
    assert {word for word in words if re.match("--?[a-z]", word)} <= takes, "an example names an option that is not there"


@each_leaf
def test_options_are_spelled_alike(path: tuple[str, ...]) -> None:
    options = {item.name: item for item in LEAVES[path].params if isinstance(item, click.Option)}
    if path != ("vos", "completion"):
        assert options["as_json"].opts == ["--json"]
    for name, item in options.items():
        assert item.help, f"--{name} has no help"
        assert item.help.rstrip("]").endswith("."), item.help
    assert "workers" not in options
    if "processes" in options:
        assert {"-n", "--processes"} <= set(options["processes"].opts)
    if "output" in options and path != ("vos", "data", "lvos-convert"):  # there it is a name, as in the official script
        assert {"-o", "--output"} <= set(options["output"].opts)


def test_layouts_that_help_names_exist() -> None:
    named = [found for command in LEAVES.values() for item in command.params if isinstance(item, click.Option)
             for found in re.findall(r"set layout, such as ([a-z0-9-]+)", item.help or "")]  # fmt: skip
    assert named
    assert set(named) <= set(LAYOUTS)
    assert "youtube-vos" in CliRunner().invoke(main, ["data", "check", "--help"]).output


@pytest.mark.parametrize("words", ["--help", "run --help", "eval --help", "data check --help", "weights list", "methods"])
def test_no_torch_before_it_is_needed(words: str) -> None:
    code = (
        "import sys; from vos_core.cli.main import main\n"
        f"try: main({words.split()!r}, prog_name='vos')\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
