"""Synthetic clips written to disk in the layouts of real data sets: atomic files, resumable, never mixed with other settings."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from vos_core.data.synthetic import GENERATOR_VERSION, Scene, make_scene
from vos_core.data.synthetic_actor import Labels
from vos_core.errors import OutputError, UsageError
from vos_core.io.atomic import replacing, write_bytes, write_json, write_text
from vos_core.io.masks import write_mask
from vos_core.types import RgbImage

Layout = Literal["davis", "youtube-vos", "ithor", "kinetics", "folder"]
MANIFEST = "synthetic.json"
"""Settings of the clips in a root folder; clips of other settings are not mixed in."""
_JPEG_QUALITY = 95
_FPS = 24
_STEP = 5  # YouTube-VOS annotates every fifth frame
_CATEGORIES = ("ball", "shard", "cloud", "kite", "stone")


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """Which clips to write. Clip i shows `scenarios[i % len]`, is drawn from `seed + i` and named `<scenario>-<seed + i>`."""

    clips: int = 4
    frames: int = 24
    height: int = 240
    width: int = 432
    objects: int = 2
    scenarios: tuple[str, ...] = ("mixed",)
    seed: int = 0

    def scenes(self) -> Iterator[tuple[str, str, Scene]]:
        """Yield name, scenario and scene of each clip.

        Raises:
            UsageError: settings that cannot be drawn.
        """
        if self.clips < 1 or not self.scenarios:
            raise UsageError(f"{self.clips} clips of {len(self.scenarios)} scenarios", expected="at least one of both")
        for index in range(self.clips):
            scenario, seed = self.scenarios[index % len(self.scenarios)], self.seed + index
            yield f"{scenario.replace('_', '-')}-{seed:03d}", scenario, make_scene(
                seed, frames=self.frames, height=self.height, width=self.width, objects=self.objects, scenario=scenario
            )  # fmt: skip


Progress = Callable[[str], None]


def write_clips(root: Path, plan: ClipPlan, *, layout: Layout = "davis", on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write the clips of `plan` under `root` and return their names; files that are there already are kept.

    Args:
        root: the data set's folder, made if absent.
        plan: which clips.
        layout: folder structure and file kinds.
        on_clip: called with each clip's name once it is whole.

    Raises:
        UsageError: settings that cannot be drawn, or a folder with synthetic clips of other settings.
        OutputError: a file that cannot be written.
    """
    if layout not in get_args(Layout):
        raise UsageError(f"no synthetic layout '{layout}'", expected=f"one of: {', '.join(get_args(Layout))}")
    writer = {
        "davis": write_davis,
        "youtube-vos": write_youtube_vos,
        "ithor": write_ithor,
        "kinetics": write_kinetics,
        "folder": write_folder,
    }[layout]
    return writer(root, plan, on_clip=on_clip)


def write_davis(root: Path, plan: ClipPlan, *, on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write `JPEGImages/480p`, `Annotations/480p` (all frames) and `ImageSets/2017/{train,val}.txt`; return the names."""
    _claim(root, plan, "davis")
    names = _write_pairs(root / "JPEGImages" / "480p", root / "Annotations" / "480p", plan, on_clip)
    for split in ("train", "val"):
        write_text(root / "ImageSets" / "2017" / f"{split}.txt", "".join(f"{name}\n" for name in names))
    return names


def write_folder(root: Path, plan: ClipPlan, *, on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write `JPEGImages/<clip>` and `Annotations/<clip>` with masks of all frames; return the names."""
    _claim(root, plan, "folder")
    return _write_pairs(root / "JPEGImages", root / "Annotations", plan, on_clip)


def write_youtube_vos(root: Path, plan: ClipPlan, *, on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write `train` (every fifth frame, all masks), `valid` (first masks only) and `valid_all_frames`; return the names.

    Both splits hold the same clips, so `train/Annotations` is the truth of `valid`. A mask in `valid` holds only the objects
    that enter in its frame; an object enters at the first fifth frame that shows it.
    """
    _claim(root, plan, "youtube-vos")
    metas: dict[str, dict[str, Any]] = {"train": {}, "valid": {}}
    names = []
    for name, _, scene in plan.scenes():
        seen: dict[int, list[str]] = {}
        for index in range(scene.frames):
            stem = f"{index:05d}"
            rgb, labels = scene.draw(index)
            _write_frame(root / "valid_all_frames" / "JPEGImages" / name / f"{stem}.jpg", rgb)
            if index % _STEP:
                continue
            ids = [int(i) for i in np.unique(labels) if i]
            new = [i for i in ids if i not in seen]
            for object_id in ids:
                seen.setdefault(object_id, [])
            for object_id in seen:
                seen[object_id].append(stem)
            for split in ("train", "valid"):
                _write_frame(root / split / "JPEGImages" / name / f"{stem}.jpg", rgb)
            _write_labels(root / "train" / "Annotations" / name / f"{stem}.png", labels)
            if new:
                _write_labels(root / "valid" / "Annotations" / name / f"{stem}.png", np.where(np.isin(labels, new), labels, 0))
        for split, meta in metas.items():
            meta[name] = {"objects": {str(i): _meta(i, frames, split=split) for i, frames in sorted(seen.items())}}
        names.append(name)
        if on_clip:
            on_clip(name)
    for split, meta in metas.items():
        write_json(root / split / "meta.json", {"videos": meta})
    return tuple(names)


def write_ithor(root: Path, plan: ClipPlan, *, on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write `<clip>_<object>/{imgs,masks}`: one folder per object with the frames that show it, grey 0/255 masks; return them."""
    _claim(root, plan, "ithor")
    folders: list[str] = []
    for name, _, scene in plan.scenes():
        found: dict[str, None] = {}
        for index in range(scene.frames):
            rgb, labels = scene.draw(index)
            for object_id in (int(i) for i in np.unique(labels) if i):
                folder = f"{name}_{object_id:03d}"
                found[folder] = None
                _write_frame(root / folder / "imgs" / f"{index:05d}.jpg", rgb)
                _write_labels(root / folder / "masks" / f"{index:05d}.png", np.where(labels == object_id, labels, 0), binary=True)
        folders.extend(sorted(found))
        if on_clip:
            on_clip(name)
    return tuple(folders)


def write_kinetics(root: Path, plan: ClipPlan, *, on_clip: Progress | None = None) -> tuple[str, ...]:
    """Write `train2/<scenario>/<clip>.mp4` and `labels/label_full_1.0.pickle`, a list of (class index, path); return the names.

    Paths are relative to `root`, so that the folder can be moved. Such clips have no masks.
    """
    if plan.height % 2 or plan.width % 2:
        raise UsageError(f"video size {plan.height}x{plan.width}", expected="even sides, which video codecs need")
    _claim(root, plan, "kinetics")
    classes = sorted(set(plan.scenarios))
    entries, names = [], []
    for name, scenario, scene in plan.scenes():
        path = root / "train2" / scenario / f"{name}.mp4"
        if not path.exists():
            _write_video(path, scene)
        entries.append((classes.index(scenario), path.relative_to(root).as_posix()))
        names.append(name)
        if on_clip:
            on_clip(name)
    write_bytes(root / "labels" / "label_full_1.0.pickle", pickle.dumps(entries, protocol=4))
    return tuple(names)


def _write_pairs(images: Path, masks: Path, plan: ClipPlan, on_clip: Progress | None) -> tuple[str, ...]:
    names = []
    for name, _, scene in plan.scenes():
        for index in range(scene.frames):
            image, mask = images / name / f"{index:05d}.jpg", masks / name / f"{index:05d}.png"
            if image.exists() and mask.exists():
                continue
            rgb, labels = scene.draw(index)
            _write_frame(image, rgb)
            _write_labels(mask, labels)
        names.append(name)
        if on_clip:
            on_clip(name)
    return tuple(names)


def _claim(root: Path, plan: ClipPlan, layout: Layout) -> None:
    """Note the settings in `root`, or check that they are those of the clips there."""
    settings = {"generator": GENERATOR_VERSION, "layout": layout, **json.loads(json.dumps(asdict(plan)))}
    path = root / MANIFEST
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{path} is not valid JSON: {error}", fix=f"Remove {root} and generate again") from error
        except OSError as error:
            raise UsageError(f"{path} cannot be read ({error.strerror})", fix="Check its permissions") from error
        differing = [key for key in settings if not isinstance(old, dict) or old.get(key) != settings[key]]
        if differing:
            raise UsageError(
                f"{root} holds synthetic clips of other settings ({', '.join(differing)})",
                fix="Choose another folder or remove this one",
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty", expected="a new folder, or one with synthetic clips of the same settings")
    next(plan.scenes())  # settings that cannot be drawn leave no folder behind
    write_json(path, settings)


def _meta(object_id: int, frames: Sequence[str], *, split: str) -> Mapping[str, Any]:
    named = {"category": _CATEGORIES[object_id % len(_CATEGORIES)]} if split == "train" else {}
    return {**named, "frames": list(frames)}


def _write_frame(path: Path, rgb: RgbImage) -> None:
    if path.exists():
        return
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    write_bytes(path, buffer.getvalue())


def _write_labels(path: Path, labels: Labels, *, binary: bool = False) -> None:
    if not path.exists():
        write_mask(path, labels, binary=binary)


def _write_video(path: Path, scene: Scene) -> None:
    import cv2

    with replacing(path) as temporary:
        fourcc = cv2.VideoWriter.fourcc(*"mp4v")
        stream = cv2.VideoWriter(str(temporary), fourcc, float(_FPS), (scene.width, scene.height))
        try:
            if not stream.isOpened():
                raise OutputError(f"cannot write {path}: this OpenCV has no MPEG-4 encoder", fix="Install opencv-python-headless")
            for index in range(scene.frames):
                stream.write(np.ascontiguousarray(scene.draw(index)[0][..., ::-1]))
        finally:
            stream.release()
