"""What a pursuit over drawn objects came to, as numbers that a page and assertions read; plain JSON on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Round:
    """One object met.

    Args:
        name: of the object.
        verdict: seen, expressed, redundant, new_base or discarded.
        repeat: whether the object was met before.
        reid: best Dice of a known code, if there was one.
        matched: the object that this code was learned from.
        first: Dice after the first coefficient fit, if there was one.
        base: Dice of the code trained as a new base, if one was.
        second: Dice after the second coefficient fit, if there was one.
        bases: bases after this round, those of pretraining included.
    """

    name: str
    verdict: str
    repeat: bool
    reid: float | None
    matched: str | None
    first: float | None
    base: float | None
    second: float | None
    bases: int


@dataclass(frozen=True, slots=True)
class StreamOutcome:
    """A whole pursuit.

    Args:
        tau: its threshold.
        beta: weight of its memory term.
        start_bases: bases that pretraining gave.
        rounds: in order.
        names: objects with a code, those of pretraining first.
        learned: held-out Dice of each with the weights stored for it.
        now: with the hypernetwork after the last round.
        claims: object that is asked about -> object of each code of the stream -> held-out Dice of that code on it. Codes of
            pretraining are left out, as the pursuit's re-identification leaves them out.
        seconds: CPU time of the pursuit.
    """

    tau: float
    beta: float
    start_bases: int
    rounds: tuple[Round, ...]
    names: tuple[str, ...]
    learned: tuple[float, ...]
    now: tuple[float, ...]
    claims: Mapping[str, Mapping[str, float]]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StreamOutcome:
        """Return what `to_json` wrote."""
        plain = dict(value)
        for name in ("names", "learned", "now"):
            plain[name] = tuple(plain[name])
        return cls(**{**plain, "rounds": tuple(Round(**one) for one in plain["rounds"])})

    @property
    def first_meetings(self) -> tuple[Round, ...]:
        """Rounds with an object that was not met before."""
        return tuple(one for one in self.rounds if not one.repeat)

    @property
    def repeats(self) -> tuple[Round, ...]:
        """Rounds with an object that was met before."""
        return tuple(one for one in self.rounds if one.repeat)

    @property
    def known_repeats(self) -> tuple[Round, ...]:
        """Repeats of objects that were recognised or learned before; one that was thrown away cannot be recognised."""
        known: set[str] = set()
        found = []
        for one in self.rounds:
            if one.repeat and one.name in known:
                found.append(one)
            if one.verdict != "discarded":
                known.add(one.name)
        return tuple(found)

    @property
    def new_bases(self) -> int:
        """Bases that the stream added."""
        return sum(one.verdict == "new_base" for one in self.rounds)

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Objects of the stream that have a code."""
        met = {one.name for one in self.rounds}
        return tuple(name for name in self.names if name in met)

    def count(self, *verdicts: str) -> int:
        """Return how many first meetings ended with one of these verdicts."""
        return sum(one.verdict in verdicts for one in self.first_meetings)

    @property
    def forgotten(self) -> tuple[str, ...]:
        """Objects whose held-out Dice fell below the threshold after they were learned."""
        rows = zip(self.names, self.learned, self.now, strict=True)
        return tuple(name for name, before, after in rows if before >= self.tau > after)

    @property
    def drop(self) -> float:
        """Mean loss of held-out Dice since each object was learned."""
        return (sum(self.learned) - sum(self.now)) / len(self.names)

    @property
    def accuracy(self) -> float:
        """Mean held-out Dice now of the objects of the stream that have a code; 0 if none has."""
        scores = [now for name, now in zip(self.names, self.now, strict=True) if name in self.stream_names]
        return sum(scores) / len(scores) if scores else 0.0

    def claimed_by(self, name: str, *, codes: int | None = None) -> tuple[float, str] | None:
        """Return the best Dice on an object, and that code's object, among (the first `codes`) codes of the stream."""
        known = self.stream_names if codes is None else self.stream_names[:codes]
        scores = [(self.claims[name][one], one) for one in known]
        return max(scores, key=lambda pair: pair[0]) if scores else None


def recall(outcome: StreamOutcome, tau: float) -> tuple[float, float]:
    """Return the share of learned stream objects that are recognised at `tau`, and the share of these that get their own name."""
    found = [(name, outcome.claimed_by(name)) for name in outcome.stream_names]
    seen = [(name, claim) for name, claim in found if claim is not None and claim[0] > tau]
    own = sum(claim[1] == name for name, claim in seen)
    return (len(seen) / len(found) if found else 0.0), (own / len(seen) if seen else 0.0)


def claimed_share(outcome: StreamOutcome, names: Sequence[str], tau: float, *, codes: int) -> float:
    """Return the share of objects `names`, never seen, that the first `codes` codes of the stream would claim as seen."""
    claims = [outcome.claimed_by(name, codes=codes) for name in names]
    return sum(claim is not None and claim[0] > tau for claim in claims) / len(names)
