"""The VOST metric against the goldens, and that every kind of golden has a test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vos_core.io.masks import write_mask
from vos_core.metrics.source import VideoJob
from vos_core.metrics.transform import LAST_FROM, VostProtocol
from vos_core.testing import GOLDENS, golden_cases
from vos_core.types import VOID

pytestmark = pytest.mark.parity
FOLDER = GOLDENS / "rmem-deaot"
COLUMNS = {
    "J_mean": "J-Mean",
    "J_recall": "J-Recall",
    "J_decay": "J-Decay",
    "J_tr_mean": "J_last-Mean",
    "J_tr_recall": "J_last-Recall",
    "J_tr_decay": "J_last-Decay",
}


@pytest.mark.parametrize("case", golden_cases("rmem-deaot", "vost_metric"))
def test_vost_metric(case: Any, tmp_path: Path) -> None:
    gold, allowed = np.load(FOLDER / case["file"]), case["tolerance"]
    assert (case["void"], case["skip_first"], case["skip_last"], case["last_fraction_start"]) == (VOID, 1, 1, LAST_FROM)
    protocol, videos = VostProtocol(), []
    for s in case["sequences"]:
        folders = []
        for name in ("gt", "res"):
            folder = tmp_path / f"{name}{s}"
            folder.mkdir()
            for t, labels in enumerate(gold[f"{name}{s}"]):
                write_mask(folder / f"{t:05d}.png", labels.astype(np.uint8))
            folders.append(folder)
        videos.append(protocol.score(VideoJob(str(s), *folders)))
    found = protocol.conclude(videos)
    rows = iter(found.objects)
    for s in case["sequences"]:
        for expected in gold[f"stats{s}"]:
            row = next(rows)
            np.testing.assert_allclose([row[COLUMNS[name]] for name in case["columns"]], expected, rtol=0, atol=allowed["atol"])
    assert next(rows, None) is None
    overall = [found.scores[COLUMNS[name]] for name in case["columns"]]
    np.testing.assert_allclose(overall, gold["global"].reshape(-1), rtol=0, atol=allowed["atol"])


def test_every_kind_of_golden_is_tested() -> None:
    path = FOLDER / "cases.json"
    if not path.is_file():
        pytest.skip(f"no goldens at {path}; set VOS_GOLDENS or VOS_SHARED")
    kinds = {case["kind"] for case in json.loads(path.read_text())}
    tested: set[str] = set()
    for file in Path(__file__).parent.glob("test_*.py"):
        for call in re.findall(r'golden_cases\("rmem-deaot"((?:,\s*"\w+")+)', file.read_text()):
            tested |= set(re.findall(r'"(\w+)"', call))
    assert kinds - {"clip"} <= tested, "clips are the input of other cases"
