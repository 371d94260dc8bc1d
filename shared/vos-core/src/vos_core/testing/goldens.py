"""Where shared test data and reference numbers lie: `VOS_SHARED` and `VOS_GOLDENS`, with the defaults of a checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _checkout_parent() -> Path:
    """Return the folder that holds the checkout the tests run from (the one with `noxfile.py`), else its parent guess."""
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "noxfile.py").is_file():
            return folder.parent
    return here.parent


SHARED = Path(os.environ.get("VOS_SHARED") or _checkout_parent() / "shared").resolve()
"""Folder of clips, ground truth and goldens; may be absent."""
GOLDENS = Path(os.environ.get("VOS_GOLDENS") or SHARED / "goldens").resolve()
"""Folder with one sub-folder of reference numbers per package; may be absent."""


def golden_cases(package: str, *kinds: str) -> list[Any]:
    """Return every case of `kinds` in the goldens of `package` as pytest params; one skipped param where there is none."""
    path = GOLDENS / package / "cases.json"
    if not path.is_file():
        return [_skipped(f"no goldens at {path}; set VOS_GOLDENS or VOS_SHARED")]
    cases = [case for case in json.loads(path.read_text(encoding="utf-8")) if case["kind"] in kinds]
    if not cases:
        return [_skipped(f"{path} has no case of kind {', '.join(kinds)}")]
    return [pytest.param(case, id=str(case.get("name") or case.get("file") or case["kind"])) for case in cases]


def needs_shared(*parts: str) -> Path:
    """Return a path below the shared test data, or skip the running test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no shared test data at {path}; set VOS_SHARED")
    return path


def clip_file(clip: str, kind: str, number: int) -> Path:
    """Return a file of a shared clip by the number that its name ends with, whatever stands before it; skips as `needs_shared`.

    Args:
        clip: its folder.
        kind: `JPEGImages` or `Annotations`.
        number: of the frame.
    """
    folder = needs_shared("clips", clip, kind)
    (path,) = (path for path in folder.iterdir() if (end := re.search(r"\d+$", path.stem)) and int(end[0]) == number)
    return path


def seeded_module() -> ModuleType:
    """Return the module that fills weights from key names (always the shared one), or skip where it is absent."""
    path = needs_shared("goldens", "seeded.py")
    spec = importlib.util.spec_from_file_location("vos_goldens_seeded", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _skipped(reason: str) -> Any:
    return pytest.param(None, marks=pytest.mark.skip(reason=reason), id="absent")
