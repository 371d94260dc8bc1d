"""DAVIS 2016 and 2017 (semi-supervised and unsupervised), flat and split roots, and resized copies such as DAVIS_480_880."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Annotated, Findings, choose_split, first_folder, listed_clip, read_lines, subfolders
from vos_core.errors import LayoutError, UsageError

SPLITS = ("train", "val", "trainval", "test-dev", "test-challenge")
COUNTS = {
    (2016, "train"): 30, (2016, "val"): 20, (2016, "trainval"): 50,
    (2017, "train"): 60, (2017, "val"): 30, (2017, "trainval"): 90, (2017, "test-dev"): 30, (2017, "test-challenge"): 30,
}  # fmt: skip
Task = Literal["semi-supervised", "unsupervised"]


def detect(root: Path) -> bool:
    """Return whether `root` holds DAVIS, flat or split by year."""
    bases = (root, root / "trainval", root / "test-dev", root / "2017" / "trainval", root / "2017" / "test-dev", root / "2016")
    return any(
        (base / "ImageSets").is_dir()
        and any((base / "JPEGImages" / size).is_dir() for size in ("480p", "Full-Resolution", "1080p"))
        for base in bases
    )


def open_set(
    root: Path, split: str | None = None, *, year: int = 2017, resolution: str = "480p", task: Task = "semi-supervised"
) -> VideoSet:
    """Return a DAVIS split (default `val`).

    Args:
        root: the flat tree, `DAVIS` with `2016`/`2017` below, or `DAVIS/2017` with `trainval`/`test-dev` below.
        split: one of `SPLITS`.
        year: 2016 merges all objects to one and asks for 0/255 results.
        resolution: `480p`, `Full-Resolution` or (2016) `1080p`.
        task: `unsupervised` takes masks from `Annotations_unsupervised` and scores all frames.

    Raises:
        UsageError: no such split, year or task.
        LayoutError: the frames of this resolution or the sequence list are absent.
    """
    split = choose_split(split, SPLITS, layout="davis", default="val")
    if year not in (2016, 2017) or task not in ("semi-supervised", "unsupervised"):
        raise UsageError(
            f"davis has no year {year} with task '{task}'", expected="year 2016 or 2017, semi-supervised or unsupervised"
        )
    if year == 2016 and split.startswith("test"):
        raise UsageError(f"DAVIS 2016 has no split '{split}'", expected="train, val or trainval")
    findings = Findings()
    base = base_folder(root, split, year=year, resolution=resolution)
    masks = base / ("Annotations_unsupervised" if task == "unsupervised" else "Annotations") / resolution
    frames = base / "JPEGImages" / resolution
    annotated: Annotated = "scored" if split == "val" else "all"
    if split.startswith("test"):  # the server keeps the others
        annotated = "none" if task == "unsupervised" else "first"
    clips = []
    for name, listed in sequences(base, split, year=year, task=task, findings=findings).items():
        clip = listed_clip(
            name, frames / name, masks / name, findings, annotated=annotated, prompt_rule="first_frame",
            mask_kind="binary" if year == 2016 else "labels", binary_output=year == 2016,
            void=None if year == 2016 else 255,  # 0/255 files
        )  # fmt: skip
        if clip is None:
            continue
        clips.append(clip)
        for stem in sorted(set(listed) - {path.stem for path in clip.frames}):
            findings.error(frames / name, f"frame {stem} is in the list of split {split} but not on disk", "Copy it again")
    findings.count(frames, found=len(clips), official=COUNTS.get((year, split)))
    kind = "unsupervised-" if task == "unsupervised" else ""
    return VideoSet(
        f"davis-{year}-{kind}{split}", "davis", root, split, tuple(clips),
        score_rule="all" if task == "unsupervised" else "inner", problems=tuple(findings.problems),
    )  # fmt: skip


def base_folder(root: Path, split: str, *, year: int, resolution: str) -> Path:
    """Return the folder that holds `JPEGImages/<resolution>` for a split; raises `LayoutError`."""
    part = split if split.startswith("test") else "trainval"
    candidates = [root / part, root / str(year) / part, root, root / str(year)]
    if year == 2016:  # inside the 2017 tree the same sequences are a list of names
        candidates = [root, root / "2016", root / "2017" / "trainval", root / "trainval"]
    lists = [base for base in candidates if any((base / "ImageSets").glob(f"*/{split}.txt"))]
    return first_folder(
        [base / "JPEGImages" / resolution for base in [*lists, *candidates]],
        root=root,
        what=f"{resolution} frames of DAVIS {year}",
    ).parent.parent


def sequences(base: Path, split: str, *, year: int, task: Task, findings: Findings) -> dict[str, list[str]]:
    """Return sequence name -> listed frame stems (empty in lists of names) in file order.

    Without a list every folder counts and the missing list is a finding.
    """
    folders = {2016: ("2016", "480p", "1080p"), 2017: ("2017",)}[year]
    if task == "unsupervised":
        folders = ("2019", "2017")
    for parts in ((split,), ("train", "val")) if split == "trainval" else ((split,),):
        for folder in folders:
            paths = [base / "ImageSets" / folder / f"{part}.txt" for part in parts]
            if all(path.is_file() for path in paths):
                return _parse([line for path in paths for line in _lines(path, findings)])
    path = base / "ImageSets" / folders[0] / f"{split}.txt"
    findings.error(path, "the list of sequences is missing", "Copy ImageSets from the data set")
    resolutions = sorted((base / "JPEGImages").iterdir())
    return {name: [] for name in subfolders(resolutions[0])} if resolutions else {}


def _lines(path: Path, findings: Findings) -> list[str]:
    try:
        lines = read_lines(path)
    except LayoutError as error:
        findings.error(path, error.found, error.fix)
        return []
    if not lines:
        findings.error(path, "the list of sequences is empty", "Copy ImageSets from the data set")
    return lines


def _parse(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        image = Path(line.split()[0])  # "<sequence>" or "/JPEGImages/480p/<sequence>/00000.jpg /Annotations/..."
        if image.suffix.lower() in (".jpg", ".jpeg", ".png"):
            found.setdefault(image.parent.name, []).append(image.stem)
        else:
            found.setdefault(line.split()[0], [])
    return found
