"""What the benchmark scripts share: the machine of a record, peak memory of a run in a process of its own, seconds by stage."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


def machine() -> dict[str, Any]:
    """Return what speed depends on: the processor, its cores, whether it multiplies bfloat16 matrices in hardware, versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="ascii", errors="replace").splitlines() if info.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return {
        "cpu": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "bf16_matrix_units": "amx_bf16" in fields.get("flags", "").split(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def peak_bytes(script: str, *arguments: object) -> int:
    """Run `script` with these arguments in a process of its own, which prints its `peak_resident_bytes` last; return that.

    Raises:
        subprocess.CalledProcessError: if the process fails; its messages go to stderr.
    """
    command = [sys.executable, script, *(str(argument) for argument in arguments)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


class StageClock:
    """Adds up CPU seconds of this process by stage; a stage inside another one counts for itself alone.

    Functions are clocked where they are looked up, so what is measured is what runs, not a copy of it for the benchmark.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = [0.0]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count what happens inside for `name`."""
        begin = time.process_time()
        self._inside.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - begin
            own = spent - self._inside.pop()
            self._inside[-1] += spent
            self.seconds[name] = self.seconds.get(name, 0.0) + own

    def clocked(self, owner: Any, attribute: str, name: str | Callable[[], str]) -> AbstractContextManager[Any]:
        """Return a context in which every call of `owner.attribute` counts for `name`, or for what `name()` says at the call."""
        call = getattr(owner, attribute)

        def measured(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name if isinstance(name, str) else name()):
                return call(*args, **kwargs)

        return patch.object(owner, attribute, measured)

    def means(self, count: int) -> dict[str, float]:
        """Return the seconds of each stage by `count` frames or steps, to the tenth of a millisecond."""
        return {name: round(seconds / count, 4) for name, seconds in self.seconds.items()}
