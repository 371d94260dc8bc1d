"""Finds what an evaluator needs in a data set root that may hold masks and lists only, without images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vos_core.data.davis import sequences
from vos_core.data.listing import Findings, read_lines
from vos_core.errors import LayoutError, UsageError
from vos_core.metrics.source import VideoJob, list_folders


def davis_jobs(
    root: Path,
    results: Path,
    *,
    split: str = "val",
    task: str = "semi-supervised",
    year: int = 2017,
    resolution: str = "480p",
    only: Sequence[str] = (),
) -> tuple[list[VideoJob], list[str]]:
    """Return the sequences of a DAVIS split in the order of its list, and warnings.

    Args:
        root: a flat tree, or one split by year and set.
        results: `<sequence>/<frame>.png`.
        split: name of the list; without one every annotated sequence counts.
        task: `unsupervised` takes `Annotations_unsupervised`.
        year: 2016 or 2017.
        resolution: folder below the annotations.
        only: sequences to take, in this order; they need not be in the list.

    Raises:
        LayoutError: there are no annotations.
        UsageError: a name in `only` has no annotations.
    """
    part = split if split.startswith("test") else "trainval"
    bases = [root / part, root / str(year) / part, root, root / str(year), root / "2017" / "trainval"]
    parent = "Annotations_unsupervised" if task == "unsupervised" else "Annotations"
    found = [base for base in bases if (base / parent / resolution).is_dir()]
    listed = [base for base in found if any((base / "ImageSets").glob(f"*/{split}.txt"))]
    if not found:
        raise LayoutError(
            f"{root} holds no DAVIS annotations",
            expected=f"{root / parent / resolution} or {bases[1] / parent / resolution}",
            fix="Check --davis-path, --task and --year",
        )
    base = (listed or found)[0]
    masks = base / parent / resolution
    warnings = []
    if only:
        names = list(only)
        unknown = [name for name in names if not (masks / name).is_dir()]
        if unknown:
            raise UsageError(f"no sequence is called {', '.join(unknown)} in {masks}", fix="Check --sequences")
    elif listed:
        findings = Findings()
        names = list(
            sequences(
                base, split, year=year, task="unsupervised" if task == "unsupervised" else "semi-supervised", findings=findings
            )
        )
        warnings += [str(problem) for problem in findings.problems]
    else:
        names = list_folders(masks)
        warnings.append(f"{base / 'ImageSets'} has no list {split}.txt: all {len(names)} annotated sequences are scored")
    return [VideoJob(name, masks / name, results / name) for name in names], warnings


def vost_jobs(root: Path, results: Path, *, split: str = "val") -> list[VideoJob]:
    """Return the sequences of a VOST split in the order of its list; raises `LayoutError` without list or annotations."""
    masks = root / "Annotations"
    if not masks.is_dir():
        raise LayoutError(f"{masks} does not exist", fix="Check --dataset_path")
    return [VideoJob(name, masks / name, results / name) for name in read_lines(root / "ImageSets" / f"{split}.txt")]


def lvos_files(root: Path, *, split: str = "valid", unseen: Path | None = None) -> tuple[Path, Path, Path | None]:
    """Return LVOS's mask folder, meta file and list of unseen videos (None if there is none).

    Raises:
        LayoutError: the masks or the meta file are absent.
    """
    folders = [
        base
        for name in dict.fromkeys([split, {"valid": "val", "val": "valid"}.get(split, split)])
        for base in (root / name, root / name / name)
    ]
    masks = next((base / "Annotations" for base in (*folders, root) if (base / "Annotations").is_dir()), None)
    if masks is None:
        raise LayoutError(
            f"{root} holds no LVOS annotations", expected=f"{root / split / 'Annotations'}", fix="Check --lvos_path"
        )
    places = dict.fromkeys((masks.parent, masks.parent.parent, root))
    names = dict.fromkeys((split, "valid", "val") if split in ("valid", "val") else (split,))
    meta = next((p / f"{name}_meta.json" for p in places for name in names if (p / f"{name}_meta.json").is_file()), None)
    if meta is None:
        raise LayoutError(
            f"{masks.parent} holds no {split}_meta.json", fix="Copy the list of objects and their frame ranges from the data set"
        )
    if unseen is None:
        unseen = next((p / "unseen_videos.txt" for p in (*places, Path()) if (p / "unseen_videos.txt").is_file()), None)
    return masks, meta, unseen


def read_names(path: Path) -> list[str]:
    """Return the first word of each line that has one; raises `LayoutError` if the file is absent."""
    return [line.split()[0] for line in read_lines(path)]
