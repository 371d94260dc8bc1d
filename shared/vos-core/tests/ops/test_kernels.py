"""Starts the Triton kernels' tests (`kernel_cases.py`) in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("kernel_cases.py")


def run_cases(**environment):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_kernels_agree_with_their_twins_in_the_interpreter():
    pytest.importorskip("triton")
    run_cases(TRITON_INTERPRET="1", VOS_KERNEL_DEVICE="cpu")


@pytest.mark.gpu
def test_kernels_agree_with_their_twins_on_a_gpu():
    pytest.importorskip("triton")
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run_cases(TRITON_INTERPRET="0", VOS_KERNEL_DEVICE="cuda")
