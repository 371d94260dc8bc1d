"""What becomes of freed memory while training."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_COUNT = """
import resource
import torch
from vos_core.training.allocator import keep_freed_memory

def faults():
    for turn in range(20):  # glibc sets small remainders aside in the first turns
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        large = torch.ones(2**26, dtype=torch.uint8)
        del large
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults())
assert keep_freed_memory() and keep_freed_memory()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep freed memory")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    """Page faults of taking 64 MiB once more, in a process of its own: what it is told cannot be taken back."""
    run = subprocess.run([sys.executable, "-c", _COUNT], capture_output=True, text=True, check=True)
    given_back, kept = map(int, run.stdout.split())
    if given_back < 100:
        pytest.skip("this system hands out large memory in large pages, or its allocator keeps it anyway")
    assert kept < given_back / 100
