"""What is known of each round, and the two logs that tell it: `rounds.jsonl` for machines, `pursuit_log.txt` for people."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vos_core.errors import OutputError
from vos_core.io.atomic import output_error

Verdict = Literal["seen", "expressed", "redundant", "new_base", "discarded", "failed"]


@dataclass(frozen=True, slots=True)
class Round:
    """One object met and what was decided.

    Args:
        round: number, from 1.
        name: of the stream entry.
        data_dir: what records call the object.
        verdict: the decision.
        reid: best Dice of a known code; None where no code of this run was known.
        matched: code file of that code.
        first: Dice after the first coefficient fit.
        base: Dice of the code trained as a new base.
        second: Dice after the second coefficient fit, with the new hypernetwork.
        z_file: code file written for the object.
        base_file: base file written for it.
        objects: codes after this round, those at the start included.
        bases: bases after this round, those at the start included.
        epochs: of each fit by phase.
        seconds: wall time of the round.
        error: what went wrong, for `failed`.
    """

    round: int
    name: str
    data_dir: str
    verdict: Verdict
    reid: float | None = None
    matched: str | None = None
    first: float | None = None
    base: float | None = None
    second: float | None = None
    z_file: str | None = None
    base_file: str | None = None
    objects: int = 0
    bases: int = 0
    epochs: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether the object got a code."""
        return self.verdict in ("expressed", "redundant", "new_base")

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


class RoundLog:
    """Appends to both logs; a resumed run first cuts what a killed round left behind.

    Args:
        out: folder of the pursuit.
        tell: also called with each line for people.
    """

    def __init__(self, out: Path, tell: Callable[[str], None] | None = None) -> None:
        self.rounds, self.text = out / "rounds.jsonl", out / "pursuit_log.txt"
        self.tell = tell

    def note(self, lines: str) -> None:
        """Append lines that nobody needs on the screen."""
        self._append(self.text, lines)

    def say(self, line: str) -> None:
        """Append a line for people."""
        self.note(line)
        if self.tell is not None:
            self.tell(line)

    def add(self, record: Round) -> None:
        """Append a finished round."""
        self._append(self.rounds, json.dumps(record.to_json()))

    def position(self) -> int:
        """Return the size of the log for people in bytes."""
        return self.text.stat().st_size if self.text.exists() else 0

    def cut(self, *, rounds: int, position: int) -> None:
        """Drop rounds after `rounds` and text after `position`."""
        try:
            kept = [line for line in self._lines() if _number(line) <= rounds]
            self.rounds.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            data = self.text.read_bytes() if self.text.exists() else b""
            self.text.write_bytes(data[:position])
        except OSError as error:
            raise output_error(self.rounds, error) from error

    def read(self) -> list[Round]:
        """Return the finished rounds."""
        return [Round(**json.loads(line)) for line in self._lines() if _number(line) < float("inf")]

    def _lines(self) -> list[str]:
        return self.rounds.read_text(encoding="utf-8").splitlines() if self.rounds.exists() else []

    def _append(self, path: Path, line: str) -> None:
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise output_error(path, error) from error


def _number(line: str) -> float:
    try:
        return float(json.loads(line)["round"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut short by a kill


def read_rounds(out: Path) -> list[Round]:
    """Return the rounds of a pursuit's folder.

    Raises:
        OutputError: there is no record of any.
    """
    log = RoundLog(out)
    if not log.rounds.is_file():
        raise OutputError(f"{out} holds no rounds.jsonl", expected="the output folder of object-pursuit pursue")
    return log.read()
