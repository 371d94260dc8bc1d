"""The data sets of a stage, from the roots where they lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmem_deaot.config import SLOTS
from rmem_deaot.train.samples import ClipSource, MergedClips
from rmem_deaot.train.stages import REACH, REPEATS, Plan, Source
from rmem_deaot.train.static_clips import StaticClips
from rmem_deaot.train.video_clips import VideoClips, annotated_clips
from vos_core.data.layout import open_layout
from vos_core.data.static import list_images
from vos_core.errors import UsageError
from vos_core.training.batches import Mixture

Roots = Mapping[Source, Path]
_LAYOUTS: Mapping[Source, str] = {
    "youtubevos": "youtube-vos",
    "davis2017": "davis",
    "lvos": "lvos",
    "vost": "vost",
    "visor": "folder",
}
OPTIONS: Mapping[Source, str] = {
    "static": "--static_root",
    "youtubevos": "--yv_root",
    "davis2017": "--davis_root",
    "lvos": "--lvos_root",
    "vost": "--vost_root",
    "visor": "--visor_root",
}


def stage_data(plan: Plan, roots: Roots, *, sources: Sequence[Source] | None = None, size: int, objects: int = SLOTS) -> Mixture:
    """Return the samples of a stage.

    Args:
        plan: the stage.
        roots: where the sets are.
        sources: sets to train on; None = those of the stage that have a root, at least one.
        size: side of a sample in pixels.
        objects: most of a clip.

    Raises:
        UsageError: a set without its root.
        LayoutError: a root that is not laid out as it must be.
    """
    stage = plan.stage
    wanted = tuple(sources) if sources else tuple(source for source in stage.sources if source in roots)
    if not wanted:
        options = " or ".join(OPTIONS[source] for source in stage.sources)
        raise UsageError(f"stage {stage.name} has no data", fix=f"Pass {options} with the folder of its data")
    parts = []
    for source in wanted:
        if source not in roots:
            raise UsageError(f"data set {source} has no folder", fix=f"Pass {OPTIONS[source]} with the folder of its data")
        clips = MergedClips(_source(source, roots[source], plan, size), merge=stage.merge, objects=objects)
        parts.append((clips, REPEATS.get(source, 1)))
    return Mixture(parts)


def _source(source: Source, root: Path, plan: Plan, size: int) -> ClipSource:
    stage = plan.stage
    if source == "static":
        return StaticClips(list_images(root), frames=stage.frames, size=size, augmentation=plan.augmentation)
    options: dict[str, Any] = {"fps": 5} if source == "vost" else {}
    split = None if source == "visor" else "train"
    clips = annotated_clips(open_layout(_LAYOUTS[source], root, split, **options).clips, where=str(root))
    return VideoClips(
        clips,
        frames=stage.frames,
        reach=REACH[source],
        size=size,
        augmentation=plan.augmentation,
        ignore=stage.ignore,
    )
