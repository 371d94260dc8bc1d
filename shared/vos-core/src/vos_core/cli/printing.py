"""What all commands print alike: JSON, problems of data sets, and what became of clips."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from vos_core.data.layout import Problem
    from vos_core.types import RunRecord


def print_json(value: Any) -> None:
    """Print `value` as one JSON document on stdout."""
    click.echo(json.dumps(value, indent=2))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one.

    >>> counted(1, "clip"), counted(2, "clip")
    ('1 clip', '2 clips')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def problems_json(problems: Iterable[Problem]) -> list[dict[str, str]]:
    """Return the problems of a data set as JSON values."""
    return [{"path": str(p.path), "found": p.found, "fix": p.fix, "level": p.level} for p in problems]


def print_outcomes(records: Sequence[RunRecord], faults: Iterable[str] = ()) -> None:
    """Print on stderr what the table does not say of the clips: warnings, why some were skipped, and why some failed.

    Args:
        records: runs over the same clips; failures name the method if there are several.
        faults: clips that could not even be described.
    """
    lines: dict[str, None] = {}  # each line once: most warnings are about the clip, whatever the method
    for record in records:
        method = f"{record.method}, " if len(records) > 1 else ""
        for clip in record.clips:
            for text in clip.warnings:
                lines[f"Warning: clip '{clip.name}': {text}"] = None
            if clip.error:
                who = method if clip.status == "failed" else ""
                lines[f"{clip.status.capitalize()}: {who}clip '{clip.name}': {clip.error}"] = None
    for line in (*lines, *(f"Failed: {fault}" for fault in faults)):
        click.echo(line, err=True)
