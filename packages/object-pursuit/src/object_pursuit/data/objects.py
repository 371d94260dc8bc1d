"""Data sets as lists of objects: iThor-like folders, DAVIS 2016, CO3D, YouTube-VOS, and any folder of clips."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from object_pursuit.data.images import Label, ObjectEntry
from vos_core.data.layout import VideoSet, open_layout
from vos_core.data.listing import Findings, listed_clip, read_meta, subfolders
from vos_core.errors import LayoutError, UsageError
from vos_core.types import Clip

DATASETS = ("iThor", "DAVIS", "CO3D", "YouTube-VOS", "custom")
"""Names that `--dataset` takes, in the original's spelling."""
MIN_VIDEO_FRAMES = 32
"""YouTube-VOS videos with fewer annotated frames are left out (spec 5)."""
CO3D_LIMIT = 300
"""Entries of the stream that a pursuit over CO3D takes (spec 4.2)."""
DAVIS_VAL = (
    "blackswan", "bmx-trees", "breakdance", "camel", "car-roundabout", "car-shadow", "cows", "dance-twirl", "dog",
    "drift-chicane", "drift-straight", "goat", "horsejump-high", "kite-surf", "libby", "motocross-jump",
    "paragliding-launch", "parkour", "scooter-black", "soapbox",
)  # fmt: skip
"""Validation sequences of DAVIS 2016."""
_ALIASES = {"vos": "YouTube-VOS", "youtube": "YouTube-VOS", "davis2016": "DAVIS", "davis-2016": "DAVIS"}


def dataset_name(name: str) -> str:
    """Return the data set's name in the spelling of `DATASETS`, whatever its case; `VOS` is the original's word for YouTube-VOS.

    >>> dataset_name("ithor"), dataset_name("VOS")
    ('iThor', 'YouTube-VOS')

    Raises:
        UsageError: none of them.
    """
    known = {known.lower(): known for known in DATASETS} | _ALIASES
    if name.lower() in known:
        return known[name.lower()]
    if name.lower() == "kitti":
        raise UsageError("dataset KITTI: the original accepts the name but never had a reader", expected=_choices())
    raise UsageError(f"there is no dataset '{name}'", expected=_choices())


def open_objects(dataset: str, root: Path, *, label: Label = "any") -> tuple[ObjectEntry, ...]:
    """Return the objects of a data set, sorted by name.

    Args:
        dataset: one of `DATASETS`, in any case.
        root: its folder.
        label: which id of palette masks is the object, for data sets of one object a sequence; custom folders of clips give
            every id of every clip as an object of its own, or this id alone.

    Raises:
        UsageError: an unknown data set.
        LayoutError: the folder is laid out otherwise or faulty: the first fault is named.
    """
    dataset = dataset_name(dataset)
    root = Path(root)
    if not root.is_dir():
        raise LayoutError(f"data folder {root} does not exist", fix="Check the path; object-pursuit synth-data makes one to try")
    reader = {"iThor": _ithor, "DAVIS": _davis, "CO3D": _co3d, "YouTube-VOS": _youtube, "custom": _custom}[dataset]
    found = sorted(reader(root, label), key=lambda entry: entry.name)
    if not found:
        raise LayoutError(f"{root} holds no object that {dataset} can use", expected=_FORMS[dataset])
    return tuple(found)


def open_object(images: Path, masks: Path, *, name: str | None = None, label: Label = "any", crop: bool = False) -> ObjectEntry:
    """Return the object of one folder of images and one of masks; images without a mask are left out.

    Raises:
        LayoutError: a folder is absent or empty, or no mask belongs to an image.
    """
    findings = Findings()
    images, masks = Path(images), Path(masks)
    shown = name or images.resolve().name
    clip = listed_clip(shown, images, masks, findings, annotated="some", mask_kind="binary", void=None)
    _refuse(findings)
    assert clip is not None
    return _entry(clip, data_dir=str(images.parent), label=label, crop=crop)


def _choices() -> str:
    return f"one of: {', '.join(DATASETS)}"


_FORMS = {
    "iThor": "<object>/imgs and <object>/masks with files of the same stems",
    "DAVIS": "JPEGImages/480p/<sequence> and Annotations/480p/<sequence>",
    "CO3D": "<category>/<object>/images and masks",
    "YouTube-VOS": f"videos with one object of id 1 and at least {MIN_VIDEO_FRAMES} annotated frames",
    "custom": "<object>/imgs and <object>/masks, or JPEGImages/<clip> and Annotations/<clip>",
}


def _ithor(root: Path, label: Label) -> list[ObjectEntry]:
    opened = open_layout("ithor", root)
    inside = {clip.name: clip.frames[0].parent.parent for clip in opened}
    return [_entry(clip, data_dir=str(inside[clip.name]), label=label, crop=False) for clip in opened]


def _co3d(root: Path, label: Label) -> list[ObjectEntry]:
    return [_entry(c, data_dir=str(c.frames[0].parent.parent), label=label, crop=True) for c in open_layout("co3d", root)]


def _davis(root: Path, label: Label) -> list[ObjectEntry]:
    opened: Iterable[Clip]
    if _davis_lists(root):
        opened = open_layout("davis", root, _davis_split(root), year=2016)
    else:  # frames and masks alone: every sequence counts
        findings = Findings()
        names = subfolders(root / "JPEGImages" / "480p")
        clips = [
            listed_clip(name, root / "JPEGImages/480p" / name, root / "Annotations/480p" / name, findings, annotated="all")
            for name in names
        ]
        _refuse(findings)
        opened = [clip for clip in clips if clip is not None]
    return [_entry(clip, data_dir=clip.name, label=label, crop=True) for clip in opened]


def _davis_lists(root: Path) -> list[Path]:
    places = (root, root / "2016", root / "2017" / "trainval", root / "trainval")
    return [place / "ImageSets" for place in places if (place / "ImageSets").is_dir()]


def _davis_split(root: Path) -> str:
    """Return `trainval`, or the one split that a partial copy lists."""
    for lists in _davis_lists(root):
        found = {path.stem for folder in ("480p", "2016", "1080p") for path in (lists / folder).glob("*.txt")}
        if "trainval" in found or {"train", "val"} <= found:
            return "trainval"
        for split in ("val", "train"):
            if split in found:
                return split
    return "trainval"


def _youtube(root: Path, label: Label) -> list[ObjectEntry]:
    opened = _videos_by_own_meta(root) if _has_own_metas(root) else _videos_by_shared_meta(root)
    kept = [clip for clip in opened if clip.object_ids == (1,) and len(clip.annotations) >= MIN_VIDEO_FRAMES]
    return [_entry(clip, data_dir=str(clip.frames[0].parent), label=1 if label == "any" else label, crop=True) for clip in kept]


def _has_own_metas(root: Path) -> bool:
    return any((root / "Annotations").glob("*/meta.json"))


def _videos_by_own_meta(root: Path) -> list[Clip]:
    """Return the videos of a tree whose `Annotations/<video>/meta.json` lists that video's objects, as the original expects."""
    findings = Findings()
    found = []
    for name in subfolders(root / "Annotations"):
        path = root / "Annotations" / name / "meta.json"
        objects = read_meta(path).get("objects") if path.is_file() else None
        if not isinstance(objects, dict) or not objects:
            findings.error(path, "it lists no object", "Write the video's entry of the official meta.json to it")
            continue
        clip = listed_clip(name, root / "JPEGImages" / name, root / "Annotations" / name, findings, annotated="some")
        if clip is not None:
            found.append(replace(clip, object_ids=tuple(sorted(int(key) for key in objects if str(key).isdigit()))))
    _refuse(findings)
    return found


def _videos_by_shared_meta(root: Path) -> VideoSet:
    splits = [split for split in ("train", "train_480p") if (root / split).is_dir()]
    return open_layout("youtube-vos", root, splits[0] if splits else "train")


def _custom(root: Path, label: Label) -> list[ObjectEntry]:
    from vos_core.data import ithor

    if ithor.detect(root):
        return _ithor(root, label)
    return [entry for clip in open_layout("folder", root) if clip.annotations for entry in _objects_of(clip, label)]


def _objects_of(clip: Clip, label: Label) -> list[ObjectEntry]:
    """Return every object of a clip with the frames that show it."""
    import numpy as np

    from object_pursuit.data.images import read_object_mask

    folder = str(clip.frames[0].parent)
    if clip.mask_kind == "binary":
        return [_entry(clip, data_dir=folder, label="any", crop=True)]
    shown: dict[int, set[str]] = {}
    for stem, path in clip.annotations.items():
        for value in np.unique(read_object_mask(path, "raw")[0]).tolist():
            if value not in (0, clip.void):
                shown.setdefault(value, set()).add(stem)
    wanted = sorted(shown) if isinstance(label, str) else [label] if label in shown else []
    several = len(shown) > 1
    entries: list[ObjectEntry] = []
    for object_id in wanted:
        part = replace(
            clip,
            name=f"{clip.name}_{object_id}" if several else clip.name,
            annotations={stem: path for stem, path in clip.annotations.items() if stem in shown[object_id]},
        )
        entries.append(_entry(part, data_dir=folder, label=object_id, crop=True))
    return entries


def _entry(clip: Clip, **values: Any) -> ObjectEntry:
    pairs = [(path, clip.annotations[path.stem]) for path in clip.frames if path.stem in clip.annotations]
    if not pairs:
        raise LayoutError(f"object '{clip.name}' has no image with a mask", expected="a mask with the stem of an image")
    return ObjectEntry(clip.name, images=tuple(p for p, _ in pairs), masks=tuple(m for _, m in pairs), **values)


def _refuse(findings: Findings) -> None:
    errors = [problem for problem in findings.problems if problem.level == "error"]
    if errors:
        raise LayoutError(f"{errors[0].path}: {errors[0].found}", fix=errors[0].fix)
