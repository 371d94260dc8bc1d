"""What becomes of freed memory while training."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource, sys
import torch
from vos_core.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
for turn in range(20):  # glibc sets small remainders aside in the first turns
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    large = torch.ones(2**26, dtype=torch.uint8)
    del large
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(word: str) -> list[int]:
    """Return the page faults of taking 64 MiB again and again, in a process of its own."""
    run = subprocess.run([sys.executable, "-c", _COUNT, word], capture_output=True, text=True, check=True)
    return [int(line) for line in run.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep freed memory")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    given_back, kept = faults("give back"), faults("keep")
    if given_back[-1] < 100:
        pytest.skip("this system hands out large memory in large pages, or its allocator keeps it anyway")
    assert kept[-1] < given_back[-1] / 100
