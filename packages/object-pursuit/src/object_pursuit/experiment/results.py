"""Results of one seed, the claims they must support, and where they are kept so that an interrupted experiment goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from object_pursuit.experiment.learned import Forgetting
from object_pursuit.experiment.outcome import StreamOutcome
from object_pursuit.experiment.plan import ExperimentPlan
from vos_core.errors import OutputError, UsageError
from vos_core.io.atomic import write_json

KEPT_DROP, LOST_DROP = 0.03, 0.2
"""With memory the mean held-out Dice falls by less than the first; without it by more than the second (spec section 9)."""


@dataclass(slots=True)
class SeedResult:
    """Everything measured with one seed.

    Args:
        seed: of the world, the training and the order of dropout.
        pretrained: held-out Dice of each pretraining object before the stream.
        stream: the pursuit that the claims are about.
        control: `memory` and `none` -> forgetting over the pretraining objects and the forced bases.
        taus: threshold -> pursuit (tables 1 to 3).
        orders: pursuits in random orders (table 5).
        betas: weight of the memory term -> pursuit (table 6).
        shots: `bases` and `free` -> number of images -> accuracy (table 4).
    """

    seed: int
    pretrained: dict[str, float]
    stream: StreamOutcome
    control: dict[str, Forgetting]
    taus: dict[float, StreamOutcome] = field(default_factory=dict)
    orders: list[StreamOutcome] = field(default_factory=list)
    betas: dict[float, StreamOutcome] = field(default_factory=dict)
    shots: dict[str, dict[str, float]] = field(default_factory=dict)

    def checks(self) -> list[tuple[str, bool, str]]:
        """Return each claim, whether it holds, and the figures it rests on."""
        stream, kept, lost = self.stream, self.control["memory"], self.control["none"]
        new, met = stream.new_bases, len(stream.first_meetings)
        again, thrown = stream.known_repeats, len(stream.repeats) - len(stream.known_repeats)
        missed = [one.name for one in again if one.verdict != "seen"]
        return [
            ("Bases grow more slowly than objects", 2 * new <= met, f"{new} new bases for {met} new objects"),
            (
                "Objects met again are recognised",
                bool(again) and not missed,
                f"{len(again) - len(missed)} of {len(again)}"
                + (f", not {', '.join(missed)}" if missed else "")
                + (f"; {thrown} more had been discarded when first met" if thrown else ""),
            ),
            (
                "With the memory term nothing is forgotten",
                kept.drop <= KEPT_DROP and not kept.forgotten,
                f"mean Dice falls by {kept.drop:.3f}, {len(kept.forgotten)} of {len(kept.names)} forgotten",
            ),
            (
                "Without it much is",
                lost.drop >= LOST_DROP,
                f"mean Dice falls by {lost.drop:.3f}, {len(lost.forgotten)} of {len(lost.names)} forgotten",
            ),
        ]


class Store:
    """Finished pieces of an experiment, one JSON file each.

    Args:
        folder: made if absent; holds `plan.json`.
        plan: must be the one of the pieces there.

    Raises:
        UsageError: the folder holds pieces of another plan, or something else.
        OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, plan: ExperimentPlan) -> None:
        self.folder = folder
        path, wanted = folder / "plan.json", json.loads(plan.model_dump_json())
        if path.exists():
            old = _read(path)
            differing = sorted(key for key in wanted if not isinstance(old, dict) or old.get(key) != wanted[key])
            if differing:
                raise UsageError(
                    f"{folder} holds an experiment of another plan ({', '.join(differing)})", fix="Choose another --out"
                )
        elif folder.is_dir() and any(folder.iterdir()):
            raise UsageError(f"{folder} is not empty and holds no experiment", fix="Choose another --out")
        else:
            write_json(path, wanted)

    def piece(self, name: str, make: Callable[[], Any]) -> Any:
        """Return a piece: what its file says, or what `make` gives, which is written first."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return _read(path)
        value = json.loads(json.dumps(make()))
        write_json(path, value)
        return value

    def stream(self, name: str, make: Callable[[], StreamOutcome]) -> StreamOutcome:
        """Return a pursuit's outcome as a piece."""
        return StreamOutcome.from_json(self.piece(name, lambda: make().to_json()))

    def forgetting(self, name: str, make: Callable[[], Forgetting]) -> Forgetting:
        """Return a control's outcome as a piece."""
        found: Mapping[str, Any] = self.piece(name, lambda: asdict(make()))
        return Forgetting(tuple(found["names"]), tuple(found["learned"]), tuple(found["now"]), found["tau"])


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path} cannot be read ({error})", fix="Remove it; the experiment makes it again") from error
