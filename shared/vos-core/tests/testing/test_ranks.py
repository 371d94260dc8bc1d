from __future__ import annotations

import os

import pytest

from vos_core.testing import run_ranks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="ranks are forked")

CODE = """
import os, sys
from pathlib import Path
seen = Path(sys.argv[1]) / "imported"
seen.write_text(seen.read_text() + "x" if seen.exists() else "x")

def rank():
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR")
    (Path(sys.argv[1]) / os.environ["RANK"]).write_text(" ".join(os.environ[name] for name in names))
    if os.environ["RANK"] == sys.argv[2]:
        raise SystemExit("rank went wrong")
"""


def test_every_rank_runs_with_its_number_and_imports_are_shared(tmp_path):
    run_ranks(CODE, tmp_path, "none", world=3)
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [f"{rank} {rank} 3 127.0.0.1" for rank in range(3)]
    assert (tmp_path / "imported").read_text() == "x"


def test_a_rank_that_fails_fails_the_test_with_what_it_printed(tmp_path):
    with pytest.raises(AssertionError, match="rank went wrong"):
        run_ranks(CODE, tmp_path, 1)
