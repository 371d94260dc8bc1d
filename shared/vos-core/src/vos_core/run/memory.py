"""Peak memory of one stretch of work: device memory on CUDA, resident memory of the process elsewhere."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")
_RESET_PEAK = "5"  # proc(5): resets VmHWM to the current resident size


class MemoryMeter:
    """Measures the peak since its construction.

    Args:
        device: torch device string; `cuda` counts bytes that torch allocated there, others the resident size of this process.

    Where the operating system cannot reset its peak (not Linux), the peak of the whole process so far is given.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        else:
            with contextlib.suppress(OSError):  # the peak is then that of the whole process, as documented
                _CLEAR_REFS.write_text(_RESET_PEAK)

    def peak_bytes(self) -> int:
        """Return the peak in bytes; 0 where the platform tells nothing."""
        if self.device.startswith("cuda"):
            import torch

            return int(torch.cuda.max_memory_allocated(self.device))
        return peak_resident_bytes()


def resident_bytes() -> int:
    """Return the resident memory of this process now, in bytes; 0 where unknown (not Linux)."""
    return _status_bytes("VmRSS")


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process since its start or the last `MemoryMeter`, in bytes; 0 where unknown.

    Linux keeps `ru_maxrss` of the parent across exec, so the process's own counter is read where there is one.
    """
    if own := _status_bytes("VmHWM"):
        return own
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(field: str) -> int:
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 0
