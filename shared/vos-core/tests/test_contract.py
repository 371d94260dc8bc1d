from importlib.metadata import EntryPoint

import pytest

import vos_core.contract as contract
from vos_core.contract import MethodInfo, discover, get_method
from vos_core.errors import UsageError


def announce(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [EntryPoint(f"m{i}", value, contract.ENTRY_POINT_GROUP) for i, value in enumerate(values)]
    monkeypatch.setattr(contract, "entry_points", lambda group: points)


def test_installed_methods_are_found_by_name() -> None:
    methods = discover()
    assert {"copy", "flow"} <= set(methods)
    assert all(isinstance(info, MethodInfo) and info.name == name for name, info in methods.items())
    assert not methods["copy"].needs_weights


def test_an_unknown_method_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="copy"):
        get_method("no-such-method")


def test_a_broken_or_foreign_entry_point_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    announce(monkeypatch, "vos_core.no_such_module:METHOD")
    with pytest.raises(UsageError, match="m0"):
        discover()
    announce(monkeypatch, "vos_core.errors:VosError")
    with pytest.raises(UsageError, match="MethodInfo"):
        discover()
