"""`run.json`: what a run did and cost, written and read as a `RunRecord`; and the description of the machine in it."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

from vos_core.contract import ENTRY_POINT_GROUP, MethodInfo
from vos_core.errors import OutputError
from vos_core.io.atomic import write_json
from vos_core.types import Clip, ClipRecord, RunRecord

RUN_FILE = "run.json"
_PACKAGES = ("vos-core", "torch", "torchvision", "triton", "numpy", "opencv-python-headless", "pillow", "av")


def write_run(record: RunRecord, path: Path, *, resume: Mapping[str, Any] | None = None) -> None:
    """Write `record` to `path` atomically; `resume` is what a repeated run needs to go on."""
    write_json(path, {"format": 1, **asdict(record), "resume": dict(resume or {})})


def read_run(path: Path) -> RunRecord:
    """Return the record in a `run.json` file, or in the folder that holds one.

    Raises:
        OutputError: the file is absent, torn or holds something else.
    """
    return run_from_json(read_run_data(path), path)


def run_from_json(data: Mapping[str, Any], path: Path) -> RunRecord:
    """Return the run record that `asdict` and JSON made `data` from; `path` is the file it is from.

    Raises:
        OutputError: it is something else.
    """
    try:
        known = {field.name for field in fields(RunRecord)} & data.keys()
        values = {name: data[name] for name in known}
        values["clips"] = tuple(clip_from_json(item) for item in data["clips"])
        return RunRecord(**values)
    except (KeyError, TypeError, AttributeError) as error:
        raise OutputError(f"{path} is not a run record ({error})", fix="Run the method again") from error


def read_run_data(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path` (a `run.json` file or its folder); raises `OutputError`."""
    path = path / RUN_FILE if path.is_dir() else path
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(
            f"run record {path} cannot be read ({error.strerror})", fix="Give the --output folder of a run"
        ) from error
    except ValueError as error:
        raise OutputError(f"run record {path} is not valid JSON: {error}", fix="Run again with --overwrite") from error
    if not isinstance(data, dict):
        raise OutputError(f"run record {path} holds a {type(data).__name__}", expected="a JSON object")
    return data


def input_sha256(clip: Clip) -> str:
    """Return a hash over the names and bytes of a clip's frames (or its video) and masks, in an order that does not vary.

    A file that is not there counts by its name.

    >>> input_sha256(Clip("none"))[:8]
    'e3b0c442'
    """
    parts = {path: path.name for path in clip.frames}  # file -> name; one that holds the masks of all frames counts once
    if clip.video is not None:
        parts[clip.video] = clip.video.name
    for name, path in sorted(clip.annotations.items()):
        inside = sorted(path.glob(f"*/{glob.escape(name)}.*")) if path.is_dir() else [path]
        parts |= {mask: mask.relative_to(path.parent).as_posix() for mask in inside}
    digest = hashlib.sha256()
    for path, name in parts.items():
        digest.update(f"\n{name}\n".encode())
        with suppress(OSError), path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def clip_from_json(item: Mapping[str, Any]) -> ClipRecord:
    """Return the clip record that `asdict` and JSON made `item` from."""
    known = {field.name for field in fields(ClipRecord)}
    values: dict[str, Any] = {name: item[name] for name in item if name in known}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)
    return ClipRecord(**values)


def describe_environment(method: MethodInfo | None = None, *, device: str = "cpu", threads: int | None = None) -> dict[str, Any]:
    """Return versions and machine for a run record: nothing that names a user, a path or a repository.

    `threads` are those that were asked for, None if the libraries choose.
    """
    versions = {name: _version(name) for name in _PACKAGES}
    for point in entry_points(group=ENTRY_POINT_GROUP):
        package = point.module.partition(".")[0]
        if method is not None and point.dist is not None and method.build.__module__.partition(".")[0] == package:
            versions[point.dist.name] = point.dist.version
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "threads": threads or "chosen by the libraries",
        "device": device,
        "memory_measured": "allocated on the device" if device.startswith("cuda") else "resident in the process",
        "versions": {name: value for name, value in versions.items() if value is not None},
    }
    if device.startswith("cuda"):
        import torch

        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


def cpu_name() -> str:
    """Return the processor's name, or its architecture where the system tells no name."""
    if sys.platform == "linux":
        try:
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
        except OSError:
            pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
