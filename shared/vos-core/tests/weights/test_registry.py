from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vos_core.contract import MethodInfo
from vos_core.errors import OutputError, WeightsError
from vos_core.weights import WeightsEntry, cache_folder, entries, get, register, registry, resolve, resolve_entry
from vos_core.weights.cache import LockRecord, exclusive, read_lock, write_lock

SHA = "0" * 64


def entry(name: str = "net", **changes) -> WeightsEntry:
    return WeightsEntry(**{"name": name, "method": "demo", "url": "https://example.org/files/net.pth", **changes})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestEntries:
    def test_in_name_order_and_by_method(self):
        for item in (entry("b"), entry("a"), entry("c", method="other")):
            register(item)
        assert [item.name for item in entries()] == ["a", "b", "c"]
        assert [item.name for item in entries("other")] == ["c"]
        assert get("b") == entry("b")

    def test_registering_twice(self):
        register(entry())
        register(entry())
        with pytest.raises(WeightsError, match="'net' are registered twice, by demo and other"):
            register(entry(method="other"))

    def test_unknown_name_lists_the_closest(self):
        for name in ("stcn", "stcn_s0", "deaot"):
            register(entry(name))
        with pytest.raises(WeightsError, match=r"are called 'stnc'\. Expected the path of a file, or one of: stcn, stcn_s0\."):
            get("stnc")

    def test_name_of_another_method(self):
        register(entry())
        with pytest.raises(WeightsError, match="'net' belong to method demo, not other"):
            resolve("net", method="other")

    def test_no_entries_at_all(self):
        with pytest.raises(WeightsError, match=r"for method demo are called 'net'\. Expected the path of a file\."):
            get("net", method="demo")

    @pytest.mark.parametrize(
        ("changes", "found"),
        [
            ({"name": "a/b"}, "'demo/a/b' is not usable"),
            ({"name": "../net"}, "is not usable"),
            ({"method": ""}, "is not usable"),
            ({"url": "ftp://example.org/x"}, "have the URL 'ftp://example.org/x'"),
            ({"url": "file:///etc/passwd"}, "have the URL"),
            ({"url": "gdrive:a b"}, "have the URL"),
            ({"sha256": "ABC"}, "have the sha256 'ABC'"),
        ],
    )
    def test_entry_that_cannot_be(self, changes, found):
        with pytest.raises(WeightsError, match=found):
            entry(**changes)

    def test_methods_register_their_own_once(self, monkeypatch):
        calls: list[str] = []

        def add() -> None:
            calls.append("demo")
            register(entry())

        def broken() -> None:
            raise WeightsError("manifest is gone")

        methods = {
            name: MethodInfo(name=name, summary="", build=lambda _: None, register=how)  # type: ignore[arg-type,return-value]
            for name, how in (("broken", broken), ("demo", add), ("none", None))
        }
        monkeypatch.setattr(registry, "discover", lambda: methods)
        with pytest.warns(UserWarning, match="weights of method broken are left out: manifest is gone"):
            assert [item.name for item in entries()] == ["net"]
        assert get("net") == entry()
        assert calls == ["demo"]

    def test_manifest_as_values_or_file(self, tmp_path):
        manifest = {"a.weight": ((2, 3), "float32")}
        path = tmp_path / "net.keys.json"
        path.write_text(json.dumps(manifest))
        assert entry(manifest=path).read_manifest() == entry(manifest=manifest).read_manifest() == manifest
        assert entry().read_manifest() is None


class TestCacheFolder:
    def test_own_variable_wins(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_folder() == tmp_path / "cache"
        monkeypatch.delenv("VOS_CACHE")
        assert cache_folder() == tmp_path / "xdg" / "vos"

    @pytest.mark.parametrize("value", ["", "relative/path"])
    def test_default(self, monkeypatch, value):
        monkeypatch.delenv("VOS_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == Path.home() / ".cache" / "vos"

    @pytest.mark.parametrize(
        ("url", "file"),
        [
            ("https://example.org/a.safetensors?x=1", "net.safetensors"),
            ("https://example.org/a.PT", "net.pt"),
            ("https://example.org/get.php?file=1", "net.pth"),
            ("gdrive:1a_B-c", "net.pth"),
        ],
    )
    def test_file_name(self, tmp_path, url, file):
        assert entry(url=url).cached_path == tmp_path / "cache" / "weights" / "demo" / file


class TestResolve:
    def test_path_wins_over_name(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        register(entry())
        Path("net").write_bytes(b"mine")
        found = resolve("net")
        assert (found.path, found.name, found.sha256) == (Path("net"), None, sha256(b"mine"))

    def test_folder_with_the_name(self, tmp_path, server, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("net").mkdir()
        with pytest.raises(WeightsError, match=r"weights net are a folder. Expected a checkpoint file"):
            resolve("net")
        method = MethodInfo(name="demo", summary="", build=lambda _: None, register=lambda: register(entry(url=server.url)))
        monkeypatch.setattr(registry, "discover", lambda: {"demo": method})
        registry._register_methods.cache_clear()
        assert resolve("net", progress=False).name == "net"

    def test_downloads_once_and_records_the_hash(self, server):
        register(entry(url=server.url))
        first = resolve("net", progress=False)
        assert (first.path, first.name, first.sha256) == (entry().cached_path, "net", sha256(server.content))
        assert first.path.read_bytes() == server.content
        assert resolve("net", progress=False) == first
        assert len(server.asked) == 1
        lock = json.loads((cache_folder() / "weights" / "lock.json").read_text())
        assert {key: lock["demo/net"][key] for key in ("url", "size", "sha256")} == {
            "url": server.url,
            "size": len(server.content),
            "sha256": sha256(server.content),
        }

    def test_no_download(self, server):
        register(entry(url=server.url))
        with pytest.raises(WeightsError, match=f"are not at .*net.pth. Run vos weights download net, or save {server.url} as"):
            resolve("net", download=False)
        resolve("net", progress=False)
        assert resolve("net", download=False).name == "net"

    def test_no_download_from_drive_names_the_page(self):
        register(entry(url="gdrive:1a_B-c"))
        with pytest.raises(WeightsError, match=r"save https://drive.google.com/file/d/1a_B-c/view as that file"):
            resolve("net", download=False)

    def test_file_put_there_by_hand(self, server):
        register(entry(url=server.url, sha256=sha256(b"by hand"), size=7))
        target = get("net").cached_path
        target.parent.mkdir(parents=True)
        target.write_bytes(b"by hand")
        assert resolve("net").sha256 == sha256(b"by hand")
        record = read_lock("demo/net")
        assert record is not None
        assert record.sha256 == sha256(b"by hand")
        assert server.asked == []

    @pytest.mark.parametrize(("known", "found"), [({"sha256": SHA}, f"Expected {SHA}"), ({"size": 5}, "has 9 bytes. Expected 5")])
    def test_wrong_file_put_there_by_hand(self, known, found):
        register(entry(**known))
        target = get("net").cached_path
        target.parent.mkdir(parents=True)
        target.write_bytes(b"the wrong")
        with pytest.raises(WeightsError, match=f"{found}.*Delete it and run vos weights download net"):
            resolve("net")
        assert read_lock("demo/net") is None

    def test_file_that_was_changed_after_the_download(self, server):
        register(entry(url=server.url))
        path = resolve("net", progress=False).path
        path.write_bytes(b"tampered")
        with pytest.raises(
            WeightsError, match=f"{path} has sha256 {sha256(b'tampered')}. Expected .*the lock file of its download"
        ):
            resolve("net")

    def test_file_that_the_publisher_replaced(self, server):
        register(entry(url=server.url))
        resolve("net", progress=False).path.unlink()
        old, server.content = sha256(server.content), b"another file"
        with pytest.raises(WeightsError, match=f"Expected {old}.*replaced the file since 2.*vos weights download net --force"):
            resolve("net", progress=False)
        assert not get("net").cached_path.exists()
        assert resolve_entry(get("net"), force=True, progress=False).sha256 == sha256(b"another file")
        assert resolve("net").sha256 == sha256(b"another file")

    def test_force_does_not_overrule_the_registry(self, server):
        register(entry(url=server.url, sha256=SHA, source="https://example.org/page"))
        with pytest.raises(WeightsError, match=f"Expected {SHA}.*compare https://example.org/page with the registry"):
            resolve_entry(get("net"), force=True, progress=False)

    def test_failed_force_keeps_the_old_file(self, server):
        register(entry(url=server.url))
        path = resolve("net", progress=False).path
        server.statuses = [404]
        with pytest.raises(WeightsError, match="404"):
            resolve_entry(get("net"), force=True, progress=False)
        assert path.read_bytes() == server.content

    def test_damaged_lock_file(self, server):
        register(entry(url=server.url))
        resolve("net", progress=False)
        lock = cache_folder() / "weights" / "lock.json"
        for text in ("{", "[]", '{"demo/net": {"sha256": 1}}'):
            lock.write_text(text)
            with pytest.raises(WeightsError, match=f"lock file {lock} is damaged .*Delete it"):
                resolve("net")

    def test_cache_that_cannot_be_written(self, server, tmp_path, monkeypatch):
        (tmp_path / "file").write_bytes(b"")
        monkeypatch.setenv("VOS_CACHE", str(tmp_path / "file"))
        register(entry(url=server.url))
        with pytest.raises(OutputError, match=r"cannot write to cache folder .*set VOS_CACHE to a folder that can be written"):
            resolve("net")

    def test_read_only_cache(self, server, monkeypatch):
        register(entry(url=server.url))
        found = resolve("net", progress=False)

        def refuse(path: Path) -> None:
            raise AssertionError(f"{path} was opened for writing")

        monkeypatch.setattr(registry, "exclusive", refuse)
        assert resolve("net") == found

    def test_threads_share_one_download(self, server):
        register(entry(url=server.url))
        threads = [threading.Thread(target=resolve, args=("net",), kwargs={"progress": False}) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.asked) == 1
        assert resolve("net").sha256 == sha256(server.content)


def test_processes_wait_for_each_other(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vos_core.weights.cache import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    path = tmp_path / "net.pth"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    got = threading.Event()

    def wait() -> None:
        with exclusive(path):
            got.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert not got.wait(0.2)
    other.kill()  # a killed process frees the lock
    assert got.wait(20)
    waiter.join()
    other.wait()
    other.stdout.close()


def test_lock_records_of_many_writers_are_all_kept():
    def add(index: int) -> None:
        write_lock(f"demo/{index}", LockRecord(url="", size=index, sha256=SHA, recorded=""))

    threads = [threading.Thread(target=add, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = [read_lock(f"demo/{index}") for index in range(8)]
    assert [record.size for record in records if record] == list(range(8))


def test_import_brings_no_torch():
    code = "import sys, vos_core.weights, vos_core.cli.weights; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
