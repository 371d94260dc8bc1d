"""DAVIS-C: corrupted frames of the DAVIS 2017 val split; masks and the list of sequences come from DAVIS itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vos_core.data import davis
from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, files, listed_clip, some_of, subfolders
from vos_core.errors import UsageError
from vos_core.types import Clip

STRENGTHS = ("low", "med", "high")
CORRUPTIONS = (
    "gaussian_noise", "contrast", "brightness", "saturate", "glass_blur", "defocus_blur", "pixelate", "cartoon", "motion_blur",
    "crf_compression", "style1", "style2", "style3", "style4",
)  # fmt: skip


def detect(root: Path) -> bool:
    """Return whether `root` holds `<strength>/<corruption>` folders."""
    return any((root / strength / corruption).is_dir() for strength in STRENGTHS for corruption in CORRUPTIONS)


def combinations(root: Path) -> list[tuple[str, str]]:
    """Return the (strength, corruption) pairs that are there, weak to strong."""
    return [(s, c) for s in STRENGTHS for c in CORRUPTIONS if (root / s / c).is_dir()]


def open_set(
    root: Path,
    split: str | None = None,
    *,
    davis_root: str | Path | None = None,
    strength: str | None = None,
    corruption: str | None = None,
) -> VideoSet:
    """Return DAVIS clips with corrupted frames.

    Args:
        root: the DAVIS-C folder, or the folder of one corruption that holds the sequences.
        split: `val` only.
        davis_root: DAVIS 2017, for masks; None lists frames alone.
        strength: `low`, `med` or `high`; None takes every strength.
        corruption: one of `CORRUPTIONS`; None takes every corruption.

    Clips of several pairs are called `<strength>/<corruption>/<sequence>`, those of one pair `<sequence>`.
    """
    choose_split(split, ("val",), layout="davis-c", default="val")
    if strength not in (None, *STRENGTHS):
        raise UsageError(f"DAVIS-C has no strength '{strength}'", expected=f"one of: {', '.join(STRENGTHS)}")
    if corruption not in (None, *CORRUPTIONS):
        raise UsageError(f"DAVIS-C has no corruption '{corruption}'", expected=f"one of: {', '.join(CORRUPTIONS)}")
    findings = Findings()
    truth = None if davis_root is None else davis.open_set(Path(davis_root), "val")
    if truth is not None:
        findings.problems += truth.problems
    pairs = [(s, c) for s, c in combinations(root) if strength in (None, s) and corruption in (None, c)]
    if not pairs and detect(root):
        findings.error(
            root, f"no frames of {strength or 'any strength'}/{corruption or 'any corruption'}", "Download or generate them"
        )
    single = len(pairs) == 1
    places = [(root / s / c, "" if single else f"{s}/{c}/") for s, c in pairs] or ([] if detect(root) else [(root, "")])
    clips: list[Clip] = []
    for folder, prefix in places:
        names = subfolders(folder) if truth is None else truth.names
        for name in names:
            clip = _corrupted(folder / name, prefix + name, findings, source=None if truth is None else truth.clip(name))
            if clip is not None:
                clips.append(clip)
        findings.count(folder, found=len(names), official=davis.COUNTS[2017, "val"])
    return VideoSet("davis-c-val", "davis-c", root, "val", tuple(clips), problems=tuple(findings.problems))


def _corrupted(folder: Path, name: str, findings: Findings, *, source: Clip | None) -> Clip | None:
    if source is None:
        return listed_clip(name, folder, None, findings, annotated="none")
    frames = tuple(files(folder))
    absent = sorted({path.stem for path in source.frames} - {path.stem for path in frames})
    if absent:
        findings.error(folder, f"frames {some_of(absent)} of DAVIS are missing", "Download or generate them again")
    return replace(source, name=name, frames=frames) if frames else None
