"""`vos doctor`: the first thing to ask for in a bug report."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from vos_core.cli.options import json_option
from vos_core.cli.printing import print_json


@click.command("doctor")
@json_option
def command(as_json: bool) -> None:
    """Print versions, devices, codecs, op backends, caches and methods; every codec and backend is tried, not looked up.

    Example: vos doctor --json
    """
    report = examine()
    if as_json:
        print_json(report)
        return
    for section, values in report.items():
        click.echo(f"{section}:")
        width = max(map(len, values), default=0)
        for name, value in values.items():
            click.echo(f"  {name.ljust(width)}  {value}")


def examine() -> dict[str, dict[str, Any]]:
    """Return the report: section -> name -> finding."""
    from vos_core.run.record import describe_environment

    environment = describe_environment()
    return {
        "versions": {"python": environment["python"], **environment["versions"]},
        "machine": {"system": environment["system"], "cpu": environment["cpu"], **_memory()},
        "devices": _devices(),
        "codecs": _codecs(),
        "ops": _ops(),
        "cache": _cache(),
        "methods": _methods(),
    }


def _memory() -> dict[str, str]:
    from vos_core.run.record import usable_cores

    cores = f"{usable_cores()} of {os.cpu_count()} usable"
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not known on this system
        return {"cores": cores}
    return {"memory": f"{total / 2**30:.1f} GiB", "cores": cores}


def _devices() -> dict[str, str]:
    import torch

    found = {"cpu": f"{torch.get_num_threads()} threads"}
    if not torch.cuda.is_available():
        why = "this torch build has none" if torch.version.cuda is None else "no device is visible"
        return {**found, "cuda": f"no ({why})"}
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        kind = f"compute {about.major}.{about.minor}, {'bf16' if about.major >= 8 else 'no bf16'}"
        found[f"cuda:{index}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {kind}"
    return {**found, "cuda runtime": str(torch.version.cuda)}


def _codecs() -> dict[str, str]:
    from vos_core.errors import VosError

    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("webm", "mp4"):
            try:
                found[f"{suffix} video"] = _try_video(Path(folder) / f"probe.{suffix}")
            except VosError as error:
                found[f"{suffix} video"] = f"no: {error}"
        for suffix in ("jpg", "png", "webp", "bmp"):
            found[f"{suffix} image"] = _try_image(Path(folder) / f"probe.{suffix}")
    return found


def _try_video(path: Path) -> str:
    import numpy as np

    from vos_core.io.frames import open_clip
    from vos_core.io.video import OverlayWriter
    from vos_core.types import Clip

    writer = OverlayWriter(path, fps=24.0)
    for value in (40, 200):
        writer.write(np.full((64, 96, 3), value, np.uint8), np.zeros((64, 96), np.uint8))
    writer.close()
    source = open_clip(Clip(name="probe", video=path))
    frames = [source.read(index).rgb for index in range(len(source))]
    source.close()
    bright = [int(frame.mean()) for frame in frames]
    if len(frames) != 2 or abs(bright[0] - 40) > 12 or abs(bright[1] - 200) > 12:
        return f"no: wrote frames of brightness 40, 200 and read {bright}"
    return "written and read"


def _try_image(path: Path) -> str:
    import cv2
    import numpy as np

    image = np.full((16, 16, 3), 120, np.uint8)
    try:
        read = cv2.imread(str(path)) if cv2.imwrite(str(path), image) else None
    except cv2.error as error:
        return f"no: {error}"
    return "written and read" if read is not None and abs(int(read.mean()) - 120) <= 8 else "no"


def _ops() -> dict[str, str]:
    """Run every op once on every backend, on the GPU where there is one."""
    import torch

    from vos_core.ops import affinity, components, conv3x3, morphology, window
    from vos_core.ops.backend import OPS, use_backends

    device = "cuda" if torch.cuda.is_available() else "cpu"
    square = torch.zeros(1, 1, 16, 16, device=device)
    square[..., 4:9, 4:9] = 1
    features = torch.rand(1, 16, 64, device=device)
    image = torch.rand(1, 16, 8, 8, device=device)
    channels = conv3x3.LEAST_CHANNELS  # fewer, or a smaller image, would not reach the fast algorithm
    kernel, side = torch.rand(channels, channels, 3, 3), math.isqrt(conv3x3.LEAST_ELEMENTS // channels) + 1
    large = torch.rand(1, channels, side, side)
    tries: dict[str, Callable[[], object]] = {
        "components": lambda: components.connected_components(square > 0),
        "morphology": lambda: morphology.dilate_disk(square > 0, 2),
        "topk_readout": lambda: affinity.topk_readout(features, features, features[None], 4),
        "local_attention": lambda: window.local_attention(image, image, image, heads=1, max_dis=2),
        "conv3x3": lambda: conv3x3.conv3x3(large, kernel),
    }
    found: dict[str, str] = {}
    for op, backends in OPS.items():
        for backend in backends:
            where = "cpu" if backend == "opencv" or op == "conv3x3" else device
            if backend == "opencv":
                square, features, image = square.cpu(), features.cpu(), image.cpu()
            else:
                square, features, image = square.to(device), features.to(device), image.to(device)
            if backend == "triton" and device == "cpu" and not os.environ.get("TRITON_INTERPRET"):
                found[f"{op} {backend}"] = "no: needs a CUDA device"
                continue
            with use_backends(f"{op}={backend}"):
                try:
                    tries[op]()
                    found[f"{op} {backend}"] = f"works on {where}"
                except Exception as error:  # noqa: BLE001 - whatever a broken toolchain raises is what the report is for
                    found[f"{op} {backend}"] = f"no: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return found


def _cache() -> dict[str, str]:
    from vos_core.weights.cache import cache_folder

    folder = cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = "writable"
    except OSError as error:
        writable = f"not writable ({error.strerror})"
    free = shutil.disk_usage(existing).free / 2**30
    return {"folder": str(folder), "state": f"{writable}, {free:.1f} GiB free" + ("" if folder.exists() else ", not made yet")}


def _methods() -> dict[str, str]:
    from vos_core.contract import ENTRY_POINT_GROUP, MethodInfo

    found: dict[str, str] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        tick = time.perf_counter()
        try:
            info = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a broken package raises is what the report is for
            found[point.name] = f"cannot be imported: {type(error).__name__}: {error}"
            continue
        if not isinstance(info, MethodInfo):
            found[point.name] = f"is a {type(info).__name__}, not a MethodInfo"
            continue
        package = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        found[point.name] = f"{package}, imported in {time.perf_counter() - tick:.2f} s"
    return found
