"""What the benchmark scripts share: the machine that a record speaks of, and peak memory of a run in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

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
