from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from vos_core.cli import doctor
from vos_core.cli.main import main
from vos_core.ops.backend import OPS


def test_report_has_everything_a_bug_report_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    report = json.loads(CliRunner().invoke(main, ["doctor", "--json"]).stdout)
    assert set(report) == {"versions", "machine", "devices", "codecs", "ops", "cache", "methods"}
    assert {"python", "vos-core", "torch", "numpy", "opencv-python-headless"} <= report["versions"].keys()
    assert report["devices"]["cpu"].endswith("threads")
    assert report["machine"]["cores"].endswith("usable")
    if report["devices"].get("cuda", "").startswith("no"):
        assert report["ops"]["components triton"] in ("no: needs a CUDA device", "works on cpu")  # the latter by the interpreter
    assert report["codecs"]["png image"] == report["codecs"]["jpg image"] == "written and read"
    assert report["codecs"]["webm video"] == "written and read"
    assert report["ops"].keys() == {f"{op} {backend}" for op, backends in OPS.items() for backend in backends}
    for name, found in report["ops"].items():
        assert found.startswith("works on ") or (name.endswith(" triton") and found == "no: needs a CUDA device"), name
    assert "writable" in report["cache"]["state"]
    assert report["methods"]["flow"].startswith("vos-core ")


def test_text_form_shows_the_same_sections() -> None:
    found = CliRunner().invoke(main, ["doctor"])
    assert found.exit_code == 0
    for section in ("versions:", "devices:", "codecs:", "ops:", "cache:", "methods:"):
        assert section in found.stdout


def test_a_broken_package_is_reported_and_does_not_stop_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        name, value, dist = "broken", "broken:METHOD", None

        def load(self) -> object:
            raise OSError("libcuda.so is missing")

    class Odd(Broken):
        name = "odd"

        def load(self) -> object:
            return 3

    monkeypatch.setattr(doctor, "entry_points", lambda group: [Broken(), Odd()])
    assert doctor._methods() == {
        "broken": "cannot be imported: OSError: libcuda.so is missing",
        "odd": "is a int, not a MethodInfo",
    }
