"""Every kind of golden case has a test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from sam2_cases import FOLDER

pytestmark = pytest.mark.parity


def test_every_kind_has_a_test():
    path = FOLDER / "cases.json"
    if not path.is_file():
        pytest.skip(f"no goldens at {path}")
    kinds = {case["kind"] for case in json.loads(path.read_text())}
    tested = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for call in re.findall(r'golden_cases\(\s*"sam2-rcms",([^)]*)\)', file.read_text()):
            tested.update(re.findall(r'"([a-z0-9_]+)"', call))
    assert kinds <= tested, f"no test for {sorted(kinds - tested)}"
