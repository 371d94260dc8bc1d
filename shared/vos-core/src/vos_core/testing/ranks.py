"""Several ranks of one training run on this machine, without a start of Python and torch for each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

_LAUNCH = """
import multiprocessing, os, sys

code, world = sys.argv.pop(1), int(sys.argv.pop(1))
names = {"__name__": "ranks"}
exec(compile(code, "ranks", "exec"), names)


def take_part(rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    names["rank"]()


fork = multiprocessing.get_context("fork")
ranks = [fork.Process(target=take_part, args=(rank,)) for rank in range(world)]
for process in ranks:
    process.start()
for process in ranks:
    process.join()
sys.exit(max(abs(process.exitcode or 0) for process in ranks))
"""


def run_ranks(code: str, *words: object, world: int = 2, timeout: float = 300.0) -> None:
    """Run `code` in a process of its own, then its function `rank()` in `world` forks of it, with the variables of torchrun.

    What `code` imports is imported once; it must start no threads. Needs a system that can fork.

    Args:
        code: Python source that defines `rank`.
        words: `sys.argv[1:]` of the ranks.
        world: how many.
        timeout: seconds for all of it.

    Raises:
        AssertionError: a rank failed; what the ranks printed is in the message.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = subprocess.run(
        [sys.executable, "-c", _LAUNCH, code, str(world), *map(str, words)],
        env={**os.environ, **meeting, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout
