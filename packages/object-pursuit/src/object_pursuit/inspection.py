"""What a file or folder of the method holds, in words and numbers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from object_pursuit.config import PRESETS
from object_pursuit.weights import code_files, network_config_of, read_code, read_state
from vos_core.errors import UsageError, WeightsError


def describe(path: Path) -> dict[str, Any]:
    """Return a description of a checkpoint, a code file, a folder of codes, or the output folder of pursuit or pretraining.

    Raises:
        UsageError: the path does not exist.
        WeightsError: it holds nothing of the method, or a file cannot be read.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist", expected="a checkpoint, a code file or a folder of them")
    if path.is_dir() and (path / "checkpoint").is_dir():
        return _run(path)
    if (path / "pretrain_last.pth").is_file():
        path = path / "pretrain_last.pth"
    if path.is_dir():
        return _codes(path)
    return {"path": str(path), **_file(path)}


def _file(path: Path) -> dict[str, Any]:
    state = read_state(path)
    found: dict[str, Any] = {"tensors": len(state), "numbers": sum(value.numel() for value in state.values())}
    z, coeffs = state.get("z"), state.get("coeffs")
    has_net = any(key.startswith(("hypernet.", "blocks.")) for key in state)
    if not has_net and z is None and coeffs is None:
        kind = "encoder" if any(key.startswith(("module.", "conv1.")) for key in state) else None
        kind = kind or ("comparator" if any(key.startswith(("backbone.", "main_net.", "inc.")) for key in state) else None)
        if kind is None:
            raise WeightsError(f"{path} is no file of this method", expected=f"keys other than {', '.join(list(state)[:3])}")
        return {"kind": kind, **found}
    if not has_net:
        kind, numbers = ("code", z) if z is not None else ("coefficients", coeffs)
        assert numbers is not None
        return {"kind": kind, "size": numbers.numel(), **found}
    config = network_config_of(state, source=str(path))
    preset = next(name for name, one in PRESETS.items() if one.table == config.table)
    kind = "hypernetwork"
    if z is not None:
        kind = "joint checkpoint" if z.ndim == 2 else "one-shot network (singlenet)"
    elif coeffs is not None:
        kind = "one-shot network (coeffnet)"
    found |= {"preset": preset, "z_dim": config.z_dim, "layers": len(config.table)}
    if z is not None and z.ndim == 2:
        found["codes"] = int(z.shape[0])
    found["encoder"] = any(key.startswith("backbone.") for key in state)
    return {"kind": kind, **found}


def _codes(path: Path) -> dict[str, Any]:
    files = code_files(path)
    if not files:
        raise WeightsError(f"{path} holds no code file", expected="files *.pth or *.json with a tensor z")
    codes = [read_code(file) for file in files]
    norms = [float(code.norm()) for code in codes]
    return {
        "path": str(path),
        "kind": "folder of codes",
        "codes": len(codes),
        "z_dim": int(codes[0].numel()),
        "norm_min": round(min(norms), 4),
        "norm_max": round(max(norms), 4),
    }


def _run(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"path": str(path), "kind": "pursuit"}
    for name in ("hypernet", "backbone"):
        file = path / "checkpoint" / f"{name}.pth"
        if file.is_file():
            found |= {f"{name}_{key}": value for key, value in _file(file).items() if key in ("preset", "z_dim", "numbers")}
    for folder, key in (("Bases", "bases"), ("zs", "codes")):
        found[key] = len(code_files(path / folder)) if (path / folder).is_dir() else 0
    rounds = path / "rounds.jsonl"
    if rounds.is_file():
        try:
            verdicts = Counter(json.loads(line)["verdict"] for line in rounds.read_text(encoding="utf-8").splitlines() if line)
        except (OSError, ValueError, KeyError) as error:
            raise WeightsError(f"{rounds} cannot be read ({error})", fix="Copy it again") from error
        found |= {"rounds": sum(verdicts.values()), **dict(sorted(verdicts.items()))}
    return found
