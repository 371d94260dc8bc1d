from __future__ import annotations

import functools
import json
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from vos_core.cli.main import main
from vos_core.weights import WeightsEntry, load_state, manifest_of, read_checkpoint, read_metadata, register, registry, sha256_of

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


def vos(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["weights", *map(str, arguments)])


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VOS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(registry, "_ENTRIES", {})
    monkeypatch.setattr(registry, "discover", dict)
    registry._register_methods.cache_clear()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """A server of `tmp_path/site`, which holds net.pth."""
    (tmp_path / "site").mkdir()
    torch.save({"model": STATE}, tmp_path / "site" / "net.pth")
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "site")))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def entry(site: str) -> WeightsEntry:
    item = WeightsEntry(
        "net",
        "demo",
        f"{site}/net.pth",
        licence="MIT",
        source="https://example.org/zoo",
        notes="Trained on squares.",
        manifest=manifest_of(STATE),
    )
    register(item)
    return item


class TestList:
    def test_text(self, entry):
        register(WeightsEntry("big", "other", "gdrive:abc", size=217_000_000))
        result = vos("list")
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            "net  (demo; size unknown; licence: MIT)",
            "    Trained on squares.",
            "    https://example.org/zoo",
            "    not downloaded",
            "big  (other; 217 MB; licence: not stated)",
            "    gdrive:abc",
            "    not downloaded",
        ]

    def test_json_of_one_method(self, entry):
        register(WeightsEntry("big", "other", "gdrive:abc"))
        vos("download", "net")
        rows = json.loads(vos("list", "--method", "demo", "--json").stdout)
        assert [row["name"] for row in rows] == ["net"]
        assert rows[0]["downloaded"] is True
        assert rows[0]["path"] == str(entry.cached_path)
        assert rows[0]["licence"] == "MIT"

    def test_nothing_registered(self):
        result = vos("list", "--method", "demo")
        assert (result.exit_code, result.stdout) == (0, "")
        assert "No weights are registered for method demo." in result.stderr


class TestDownload:
    def test_prints_file_and_hash(self, entry):
        result = vos("download", "net")
        assert result.exit_code == 0
        assert result.stdout == f"{entry.cached_path}  sha256 {sha256_of(entry.cached_path)}\n"
        assert vos("path", "net").stdout == f"{entry.cached_path}\n"

    def test_one_of_two_fails(self, entry, site):
        register(WeightsEntry("gone", "demo", f"{site}/gone.pth"))
        result = vos("download", "gone", "net", "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert [item["name"] for item in report["downloaded"]] == ["net"]
        assert [item["name"] for item in report["failed"]] == ["gone"]
        assert f"Error: gone: {site}/gone.pth answers 404" in result.stderr

    def test_unknown_name_downloads_nothing(self, entry):
        result = vos("download", "net", "nett")
        assert result.exit_code == 1
        assert "are called 'nett'. Expected the path of a file, or one of: net." in result.stderr
        assert not entry.cached_path.exists()

    def test_force_takes_a_replaced_file(self, entry, tmp_path):
        vos("download", "net")
        entry.cached_path.unlink()
        torch.save(STATE, tmp_path / "site" / "net.pth")
        refused = vos("download", "net")
        assert refused.exit_code == 1
        assert "vos weights download net --force" in refused.stderr
        assert vos("download", "net", "--force").exit_code == 0
        assert sha256_of(entry.cached_path) == sha256_of(tmp_path / "site" / "net.pth")

    def test_no_name(self):
        assert vos("download").exit_code == 2


class TestPath:
    def test_not_here(self, entry):
        result = vos("path", "net")
        assert (result.exit_code, result.stdout) == (1, "")
        assert f"are not at {entry.cached_path}. Run vos weights download net" in result.stderr

    def test_json(self, entry):
        vos("download", "net")
        assert json.loads(vos("path", "net", "--json").stdout) == {
            "name": "net",
            "path": str(entry.cached_path),
            "sha256": sha256_of(entry.cached_path),
        }


class TestCheck:
    def test_file_that_fits(self, entry, tmp_path):
        result = vos("check", tmp_path / "site" / "net.pth", "--name", "net")
        assert result.exit_code == 0
        assert "net.pth: 2 tensors, 8 numbers, float32" in result.stdout
        assert "keys and shapes fit: demo/net" in result.stdout

    def test_json(self, entry, tmp_path):
        torch.save({"b": torch.ones(3)}, tmp_path / "other.pth")
        result = vos("check", tmp_path / "other.pth", "--name", "net", "--json")
        report = json.loads(result.stdout)
        assert result.exit_code == 1
        assert (report["tensors"], report["parameters"], report["dtypes"], report["fits"]) == (1, 3, ["float32"], [])
        assert "as net the file does not fit its key manifest" in report["problems"][0]
        assert "    a.weight\n" in report["problems"][0]

    def test_other_hash(self, tmp_path):
        register(WeightsEntry("net", "demo", "https://example.org/net.pth", sha256="0" * 64))
        torch.save(STATE, tmp_path / "net.pth")
        result = vos("check", tmp_path / "net.pth", "--name", "net")
        assert result.exit_code == 1
        assert f"the registry has sha256 {'0' * 64} for net" in result.stderr

    def test_nothing_to_check_against(self, tmp_path):
        register(WeightsEntry("net", "demo", "https://example.org/net.pth"))
        torch.save(STATE, tmp_path / "net.pth")
        result = vos("check", tmp_path / "net.pth", "--name", "net")
        assert result.exit_code == 1
        assert "nothing is known of net to check the file against" in result.stderr
        assert vos("check", tmp_path / "net.pth").exit_code == 0

    def test_truncated_file(self, tmp_path):
        torch.save(STATE, tmp_path / "net.pth")
        data = (tmp_path / "net.pth").read_bytes()
        (tmp_path / "net.pth").write_bytes(data[: len(data) // 2])
        result = vos("check", tmp_path / "net.pth")
        assert result.exit_code == 1
        assert "truncated or not a checkpoint: download it again" in result.stderr
        assert "Traceback" not in result.stderr

    def test_shows_metadata(self, tmp_path):
        torch.save(STATE, tmp_path / "net.pth")
        vos("convert", tmp_path / "net.pth", tmp_path / "net.safetensors", "--metadata", "licence=MIT")
        assert "licence: MIT\n" in vos("check", tmp_path / "net.safetensors").stdout


class TestConvert:
    @pytest.fixture
    def source(self, tmp_path):
        torch.save({"state_dict": {f"module.{key}": value for key, value in STATE.items()}, "epoch": 1}, tmp_path / "in.pth")
        return tmp_path / "in.pth"

    def test_to_safetensors(self, source, tmp_path):
        target = tmp_path / "out.safetensors"
        result = vos("convert", source, target, "--metadata", "licence=MIT", "--metadata", "note=a=b")
        assert result.exit_code == 0
        assert result.stdout == f"{target}: 2 tensors, sha256 {sha256_of(target)}\n"
        assert set(load_state(target)) == set(STATE)
        assert {"licence": "MIT", "note": "a=b", "source": "in.pth"}.items() <= read_metadata(target).items()

    def test_to_a_wrapped_file(self, source, tmp_path):
        result = vos("convert", source, tmp_path / "out.pt", "--wrapper", "model", "--json")
        assert json.loads(result.stdout)["tensors"] == 2
        assert list(read_checkpoint(tmp_path / "out.pt")) == ["model"]

    def test_keeps_what_is_there(self, source, tmp_path):
        target = tmp_path / "out.pth"
        target.write_bytes(b"precious")
        result = vos("convert", source, target)
        assert result.exit_code == 2
        assert "out.pth exists. Choose another name or add --overwrite." in result.stderr
        assert target.read_bytes() == b"precious"
        assert vos("convert", source, target, "--overwrite").exit_code == 0
        assert set(load_state(target)) == set(STATE)

    @pytest.mark.parametrize(
        ("arguments", "found"),
        [
            (["out.zip"], "ends in .safetensors, .pth or .pt"),
            (["out.safetensors", "--metadata", "licence"], "'licence' is not metadata"),
        ],
    )
    def test_wrong_use(self, source, tmp_path, arguments, found):
        result = vos("convert", source, tmp_path / arguments[0], *arguments[1:])
        assert result.exit_code == 2
        assert found in result.stderr

    def test_absent_source(self, tmp_path):
        result = vos("convert", tmp_path / "in.pth", tmp_path / "out.pth")
        assert result.exit_code == 1
        assert "in.pth does not exist" in result.stderr


@pytest.mark.parametrize("name", ["", "list", "download", "path", "check", "convert"])
def test_help_ends_with_an_example(name):
    result = vos(*filter(None, [name]), "--help")
    assert result.exit_code == 0
    assert f"Example: vos weights {name or 'list'}" in " ".join(result.stdout.split())
