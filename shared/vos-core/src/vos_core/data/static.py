"""Still images with masks for pretraining: STCN's side-by-side sets and AOT's `JPEGImages`/`Annotations` sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vos_core.data.layout import VideoSet
from vos_core.data.listing import Findings, choose_split, files, masks_in, some_of, subfolders
from vos_core.errors import LayoutError
from vos_core.types import Clip, MaskKind

STCN_SETS = {"fss": 1, "DUTS-TR": 1, "DUTS-TE": 1, "ecssd": 1, "BIG_small": 5, "HRSOD_small": 5}
"""Set -> how often an epoch uses each of its images."""
AOT_SETS = ("COCO", "ECSSD", "MSRA10K", "PASCAL-S", "PASCALVOC2012")


@dataclass(frozen=True, slots=True)
class ImageMask:
    """One still image with its mask.

    Args:
        name: `<set>/<stem>`, with the class between them in FSS.
        image: image file.
        mask: mask file; `binary` ones are grey, foreground above half after scaling; `labels` hold object ids, 255 = void.
        subset: the set it belongs to.
        repeat: how often an epoch uses it.
        mask_kind: how the mask is to be read.
    """

    name: str
    image: Path
    mask: Path
    subset: str
    repeat: int
    mask_kind: MaskKind


def detect(root: Path) -> bool:
    """Return whether `root` holds a set of either form."""
    stcn = any((root / name).is_dir() and not (root / name / "imgs").is_dir() for name in STCN_SETS)
    return stcn or any((root / "JPEGImages" / name).is_dir() for name in AOT_SETS)


def list_images(root: Path, *, findings: Findings | None = None) -> tuple[ImageMask, ...]:
    """Return every image that has a mask, set by set; an AOT set whose numbers differ is skipped with a finding.

    Raises:
        LayoutError: `root` holds no set of either form.
    """
    findings = Findings() if findings is None else findings
    if (root / "JPEGImages").is_dir():
        return tuple(_aot(root, findings))
    if not any((root / name).is_dir() for name in STCN_SETS):
        raise LayoutError(
            f"{root} holds no set of still images", expected=f"JPEGImages/<set>, or one of: {', '.join(STCN_SETS)}",
            fix="Give the folder that holds the sets",
        )  # fmt: skip
    return tuple(_stcn(root, findings))


def open_set(root: Path, split: str | None = None) -> VideoSet:
    """Return every image as a clip of one frame; `split` can only be `train`. Raises as `list_images`."""
    choose_split(split, ("train",), layout="static", default="train")
    findings = Findings()
    clips = tuple(
        Clip(
            item.name, frames=(item.image,), annotations={item.image.stem: item.mask}, mask_kind=item.mask_kind,
            void=255 if item.mask_kind == "labels" else None,
        )
        for item in list_images(root, findings=findings)
    )  # fmt: skip
    return VideoSet("static-train", "static", root, "train", clips, score_rule="all", problems=tuple(findings.problems))


def _stcn(root: Path, findings: Findings) -> Iterator[ImageMask]:
    for subset, repeat in STCN_SETS.items():
        base = root / subset
        if not base.is_dir():
            findings.note(base, "the set is missing", "Download it, or train without it")
            continue
        for folder in [base / name for name in subfolders(base)] if subset == "fss" else [base]:
            images, masks = files(folder, (".jpg", ".jpeg")), {path.stem: path for path in files(folder, (".png",))}
            if not images:
                findings.error(folder, "there is no image", "Download the set again")
            _unmatched(folder, [path.stem for path in images], masks, findings)
            prefix = folder.relative_to(root).as_posix()
            for path in images:
                if path.stem in masks:
                    yield ImageMask(f"{prefix}/{path.stem}", path, masks[path.stem], subset, repeat, "binary")


def _aot(root: Path, findings: Findings) -> Iterator[ImageMask]:
    for subset in subfolders(root / "JPEGImages"):
        folder = root / "JPEGImages" / subset
        images, masks = files(folder), masks_in(root / "Annotations" / subset)
        if len(images) != len(masks):
            found = f"{len(images)} images but {len(masks)} masks, so the set is skipped"
            findings.error(folder, found, f"Make {root / 'Annotations' / subset} complete")
            continue
        _unmatched(folder, [path.stem for path in images], masks, findings)
        for path in images:
            if path.stem in masks:
                yield ImageMask(f"{subset}/{path.stem}", path, masks[path.stem], subset, 1, "labels")


def _unmatched(folder: Path, stems: list[str], masks: dict[str, Path], findings: Findings) -> None:
    for wrong, what in (
        (set(stems) - masks.keys(), "images without a mask"),
        (masks.keys() - set(stems), "masks without an image"),
    ):
        if wrong:
            findings.error(
                folder, f"{what}: {some_of(sorted(wrong))}", "Give image and mask the same stem, or remove the odd one"
            )
