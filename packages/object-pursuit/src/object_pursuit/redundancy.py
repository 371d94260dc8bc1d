"""Removing bases that others can express, after pretraining (spec section 4.5)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from object_pursuit.fit import FitOptions, Fitter, fit_object
from object_pursuit.model import Coeffnet, Hypernet
from object_pursuit.model.network import Dropout
from object_pursuit.pursuit.reidentify import reid_batches, score_codes
from object_pursuit.samples import ObjectImages
from object_pursuit.weights import write_code
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.io.atomic import write_json
from vos_core.training.checkpoint import seed_everything

FIT = FitOptions(lr=4e-4, epochs=200, patience=3, batch=64, l1=0.2)
"""Published options of the fits."""


@dataclass(frozen=True, slots=True)
class BaseRecord:
    """What is known of a base.

    Args:
        index: row in the sorted list of bases.
        obj_name: of its object.
        data_dir: images of the object.
        acc: quality of the base itself, 0-1; None = not measured yet.
    """

    index: int
    obj_name: str
    data_dir: str
    acc: float | None = None


@dataclass(frozen=True, slots=True)
class BaseVerdict:
    """What became of a base.

    Args:
        record: of the base, its quality filled in.
        valid: whether it stays.
        reason: `base`, `unqualified` (its own quality is not above tau) or `redundant`.
        quality: of the best combination of the others; None where none was tried.
        base_file: its new file.
    """

    record: BaseRecord
    valid: bool
    reason: str
    quality: float | None = None
    base_file: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the record with `valid` and `base_file`, as the original writes it, and the reason."""
        return {
            **asdict(self.record),
            "valid": self.valid,
            "base_file": self.base_file,
            "reason": self.reason,
            "quality": self.quality,
        }


def read_records(path: Path, bases: int) -> list[BaseRecord]:
    """Return the records of a list of bases: `pretrain_info.json` of joint pretraining or `base_info.json` of a pursuit.

    Raises:
        UsageError: the file cannot be read, or names a base that there is not.
    """
    try:
        rows: Sequence[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        records = [
            BaseRecord(
                int(row["index"]), str(row.get("obj_name", Path(str(row["data_dir"])).name)), str(row["data_dir"]), row.get("acc")
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} is no list of bases ({error})",
            expected="pretrain_info.json or base_info.json: index, data_dir and, if known, obj_name and acc",
        ) from error
    wrong = [record.index for record in records if not 0 <= record.index < bases]
    if wrong or len({record.index for record in records}) < len(records):
        raise UsageError(f"{path} names bases {wrong or 'twice'}", expected=f"each of 0 to {bases - 1} once")
    return records


def remove_redundant(
    bases: Tensor,
    records: Sequence[BaseRecord],
    open_data: Callable[[str], ObjectImages],
    hypernet: Hypernet,
    encoder: nn.Module | None,
    *,
    out: Path,
    tau: float = 0.7,
    options: FitOptions = FIT,
    dropout: Dropout = "always",
    seed: int = 0,
    suffix: str = ".pth",
    device: str = "cpu",
    precision: Precision = "fp32",
    tell: Callable[[str], None] | None = None,
) -> list[BaseVerdict]:
    """Try every base, worst first, on the others that are still valid; write the survivors and `base_info.json` to `out`.

    Args:
        bases: codes `(K, z_dim)`.
        records: of the bases; those without one stay untouched among the others.
        open_data: images by `data_dir`.
        hypernet, encoder: frozen.
        out: gets `base_NNNN` files (codes alone), in order of ascending quality.
        tau: a base whose own quality is not above it is invalid; one that others express above it is redundant.
        options: of the fits.
        dropout: as in a pursuit.
        seed: of everything random.
        suffix: of the files.
        device: torch device string.
        precision: of the passes.
        tell: called with each verdict.

    Raises:
        VosError: images that cannot be read, a file that cannot be written.
    """
    hypernet.requires_grad_(False).to(device)
    if encoder is not None:
        encoder.requires_grad_(False).to(device)
    measured = [_measured(record, bases, open_data, hypernet, encoder, dropout, seed, device, precision) for record in records]
    order = sorted(measured, key=lambda record: record.acc or 0.0)
    valid = set(range(len(bases)))
    verdicts: list[BaseVerdict] = []
    for record in order:
        quality, reason = None, "base"
        others = sorted(valid - {record.index})
        if (record.acc or 0.0) <= tau:
            reason = "unqualified"
        elif others:
            seed_everything(seed * 1_000_003 + record.index)
            network = Coeffnet(hypernet, encoder, bases=bases[others], dropout=dropout).to(device)
            fitter = Fitter(network, options.model_copy(update={"target": tau}), device=device, precision=precision)
            quality = fit_object(fitter, open_data(record.data_dir)).quality
            reason = "redundant" if quality > tau else "base"
        if reason != "base":
            valid.discard(record.index)
        verdicts.append(BaseVerdict(record, reason == "base", reason, quality))
        if tell is not None:
            tell(f"{record.obj_name}: {reason}" + ("" if quality is None else f" ({quality:.3f} by {len(others)} others)"))
    return _write(verdicts, bases, out, suffix)


def _measured(
    record: BaseRecord,
    bases: Tensor,
    open_data: Callable[[str], ObjectImages],
    hypernet: Hypernet,
    encoder: nn.Module | None,
    dropout: Dropout,
    seed: int,
    device: str,
    precision: Precision,
) -> BaseRecord:
    if record.acc is not None:
        return record
    seed_everything(seed * 1_000_003 + record.index)
    data = open_data(record.data_dir)
    (acc,) = score_codes(
        bases[record.index : record.index + 1],
        data,
        reid_batches(len(data), 1.0, 64),
        hypernet,
        encoder,
        dropout=dropout,
        device=device,
        precision=precision,
    )
    return BaseRecord(record.index, record.obj_name, record.data_dir, acc)


def _write(verdicts: Sequence[BaseVerdict], bases: Tensor, out: Path, suffix: str) -> list[BaseVerdict]:
    if out.is_dir() and any(out.glob("base_*")):
        raise UsageError(f"{out} holds bases already", fix="Choose another --out")
    found, number = [], 0
    for verdict in verdicts:
        file = None
        if verdict.valid:
            file = f"base_{number:04d}{suffix}"
            write_code(out / file, bases[verdict.record.index], None)
            number += 1
        found.append(BaseVerdict(verdict.record, verdict.valid, verdict.reason, verdict.quality, file))
    write_json(out / "base_info.json", [verdict.to_json() for verdict in found])
    return found


def kept(verdicts: Sequence[BaseVerdict]) -> int:
    """Return how many bases stay."""
    return sum(verdict.valid for verdict in verdicts)
