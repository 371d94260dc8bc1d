from importlib.metadata import EntryPoint

import pytest

import vos_core.contract as contract
from vos_core.contract import MethodInfo, discover, get_method
from vos_core.errors import UsageError


def test_installed_methods_are_found_by_name() -> None:
    methods = discover()
    assert {"copy", "flow"} <= set(methods)
    assert all(isinstance(info, MethodInfo) and info.name == name for name, info in methods.items())
    assert not methods["copy"].needs_weights


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="copy"):
        get_method("no-such-method")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("vos_core.no_such_module:METHOD", "cannot be imported"),
        ("vos_core.errors:Absent", "cannot be imported"),
        ("vos_core.errors:VosError", "MethodInfo"),
        ("vos_core.baseline.copy:METHOD", "called 'copy'"),
    ],
)
def test_a_broken_method_is_named_and_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    points = [
        EntryPoint(n, v, contract.ENTRY_POINT_GROUP) for n, v in (("broken", value), ("flow", "vos_core.baseline.flow:METHOD"))
    ]
    monkeypatch.setattr(contract, "entry_points", lambda group: points)
    with pytest.raises(UsageError, match=words):
        get_method("broken")
    with pytest.warns(UserWarning, match="broken"):
        assert list(discover()) == ["flow"]
    assert get_method("flow").name == "flow"
