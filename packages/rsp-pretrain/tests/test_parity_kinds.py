"""Every kind of reference case has a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vos_core.testing import GOLDENS

CASES = GOLDENS / "rsp-pretrain" / "cases.json"


@pytest.mark.parity
@pytest.mark.skipif(not CASES.is_file(), reason=f"no goldens at {CASES}; set VOS_GOLDENS or VOS_SHARED")
def test_every_kind_is_compared() -> None:
    kinds = {case["kind"] for case in json.loads(CASES.read_text(encoding="utf-8"))}
    tested: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for call in re.findall(r'golden_cases\("rsp-pretrain",([^)]*)\)', path.read_text(encoding="utf-8")):
            tested |= set(re.findall(r'"(\w+)"', call))
    assert kinds <= tested, f"without a test: {', '.join(sorted(kinds - tested))}"
