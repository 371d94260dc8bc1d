from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from vos_core.cli.main import main
from vos_core.cli.methods import format_method
from vos_core.contract import MethodInfo, discover


def test_every_installed_method_is_listed() -> None:
    found = CliRunner().invoke(main, ["methods"])
    names = [line.split()[0] for line in found.stdout.splitlines()]
    assert names == list(discover())
    assert {"copy", "flow"} <= set(names)


def test_one_method_with_its_options() -> None:
    found = CliRunner().invoke(main, ["methods", "flow"])
    assert "--set NAME=VALUE" in found.stdout
    lines = {line.split()[0]: line for line in found.stdout.splitlines() if line.startswith("    ")}
    assert lines["preset"].endswith("[default: fast]"), "an option is shown with its default"
    described = json.loads(CliRunner().invoke(main, ["methods", "flow", "--json"]).stdout)
    assert described["name"] == "flow"
    assert set(described["options"]) == {"preset", "finest_scale", "consistency"}
    assert len(json.loads(CliRunner().invoke(main, ["methods", "--json"]).stdout)) == len(discover())


def test_unknown_method_is_wrong_use() -> None:
    found = CliRunner().invoke(main, ["methods", "nonsense"])
    assert found.exit_code == 2
    assert "nonsense" in found.stderr


def test_variants_weights_and_limits_are_told() -> None:
    info = MethodInfo(
        "m", "does it", build=lambda request: None, variants=("s", "l"), weights={"s": ("w1", "w2"), "l": ()}, max_objects=10
    )
    text = format_method(info)
    for expected in ("s, l (first = default)", "weights of s: w1, w2", "weights of l: none released", "10 at once"):
        assert expected in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str) -> None:
    found = CliRunner().invoke(main, ["completion", shell])
    assert found.exit_code == 0
    assert "_VOS_COMPLETE" in found.stdout
    other = CliRunner().invoke(main, ["completion", shell, "--program", "stcn-ttt"])
    assert "_STCN_TTT_COMPLETE" in other.stdout


def test_completion_answers() -> None:
    found = CliRunner().invoke(
        main, env={"_VOS_COMPLETE": "bash_complete", "COMP_WORDS": "vos ru", "COMP_CWORD": "1"}, prog_name="vos"
    )
    assert "plain,run" in found.output
