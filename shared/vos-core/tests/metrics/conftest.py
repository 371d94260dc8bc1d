from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from vos_core.cli.main import main
from vos_core.io.palette import DAVIS_PALETTE
from vos_core.io.png import encode_png
from vos_core.metrics.evaluate import RESULTS


@pytest.fixture(scope="session")
def write_masks() -> Callable[..., None]:
    """Write label maps (T, H, W) as palette PNGs named first + step * t."""

    def write(folder: Path, labels: Any, *, first: int = 0, step: int = 1, digits: int = 5, every: int = 1) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for t in range(0, len(labels), every):
            data = encode_png(np.ascontiguousarray(labels[t], np.uint8), palette=DAVIS_PALETTE, compress_level=1)
            (folder / f"{first + step * t:0{digits}d}.png").write_bytes(data)

    return write


@pytest.fixture(scope="session")
def vos_eval() -> Callable[..., Any]:
    """Run `vos eval` and return what `results.json` in `output` holds; fails if the command does."""

    def call(*arguments: Any, output: Path) -> Any:
        words = ["eval", *map(str, arguments), "--output", str(output)]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return json.loads((output / RESULTS).read_text())

    return call
