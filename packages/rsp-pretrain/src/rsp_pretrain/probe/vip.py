"""VIP: propagate the first frame's body parts through each clip, and score them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from rsp_pretrain.model import Encoder
from rsp_pretrain.probe.context import ContextConfig, ContextPropagation
from rsp_pretrain.probe.features import ClipFeatures, check_size
from rsp_pretrain.probe.parts import at_truth_size, part_labels, parts_of
from rsp_pretrain.probe.session import ClipResult, LoadedEncoder, run_clips
from vos_core.data.vip import CLASSES
from vos_core.errors import MaskError
from vos_core.io.masks import read_clip_mask, read_mask, write_mask
from vos_core.metrics import label_confusion, mean_iou_of
from vos_core.run.device import synchronize
from vos_core.types import Clip, LabelMap, RunRecord


class PartConfig(ContextConfig):
    """Options of part propagation; the defaults are those of the ViT port of the protocol."""

    topk: int = Field(default=10, ge=1, description="Context tokens that each token listens to.")
    size: tuple[int, ...] = Field(default=(880,), description="Longer side, or height and width, in pixels.")
    batch: int = Field(default=2, ge=1, description="Frames encoded at a time.")


def propagate_parts(
    encoder: Encoder, frames: Sequence[Path], mask: LabelMap, config: PartConfig, *, dtype: torch.dtype = torch.float32
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the class ids of every frame at the frames' size, uint8 `(H, W)`; the first frame's are its own labels resized.

    Args:
        encoder: frozen.
        frames: image files in time order.
        mask: class ids of the first frame.
        config: options.
        dtype: of the stored features.

    Raises:
        FrameError: a frame that cannot be read.
        MaskError: a mask of another size than the frames, or with an id beyond 255.
    """
    features = ClipFeatures(encoder, frames, size=config.size, batch=config.batch)
    if mask.shape != features.frame_size:
        raise MaskError(
            f"the first mask is {mask.shape[1]}x{mask.shape[0]}",
            expected=f"{features.frame_size[1]}x{features.frame_size[0]} like the frames",
        )
    if mask.max() > 255:
        raise MaskError(f"the first mask has the label {mask.max()}", expected="class ids up to 255")
    first = part_labels(mask, size=features.size, grid=features.grid)
    device = next(encoder.parameters()).device
    context: ContextPropagation | None = None
    for one in features:
        if context is None:
            context = ContextPropagation(config, one, torch.from_numpy(first.soft).to(device), dtype=dtype)
            soft = first.soft
        else:
            soft = context.step(one).cpu().numpy()
        synchronize(str(device))
        yield at_truth_size(parts_of(soft, first.ids, features.size), features.frame_size)


@dataclass(frozen=True, slots=True)
class PartTask:
    """Propagates the parts of a clip and writes its masks.

    Args:
        output: class ids go to `<output>/<clip>/<frame>.png`.
        config: options.
    """

    output: Path
    config: PartConfig

    def __call__(self, loaded: LoadedEncoder, clip: Clip) -> ClipResult:
        """Return what was propagated: a mask a frame.

        Raises:
            MaskError: a mask that could not be scored: of another size than the first, or with a label that is no class.
        """
        steps: list[float] = []
        first = read_clip_mask(clip, clip.frames[0].stem)
        _check_truth(clip, first.shape)
        parts = propagate_parts(loaded.encoder, clip.frames, first, self.config, dtype=loaded.dtype)
        tick = time.perf_counter()
        for path, found in zip(clip.frames, parts, strict=True):
            steps.append(time.perf_counter() - tick)
            write_mask(self.output / clip.name / f"{path.stem}.png", found)
            tick = time.perf_counter()
        return ClipResult(len(np.unique(first)), first.shape, steps, masks=len(clip.frames))


def run_vip(
    clips: Sequence[Clip],
    output: Path,
    loaded: LoadedEncoder,
    config: PartConfig,
    *,
    resume: bool = True,
    overwrite: bool = False,
    processes: int = 1,
    on_clip: Callable[[int, int], object] | None = None,
) -> RunRecord:
    """Propagate and score clips; class ids go to `<output>/<clip>/<frame>.png` at the frames' size.

    Args, Raises: as `rsp_pretrain.probe.session.run_clips`. The scores are `mIoU` and the IoU of every class that occurs, 0-100.
    """
    check_size(clips, config.size, loaded.encoder)

    def score(done: Sequence[Clip]) -> Mapping[str, Any]:
        confusion = sum(
            (label_confusion(_pairs(clip, output), classes=len(CLASSES), ignore=None) for clip in done),
            start=np.zeros((len(CLASSES), len(CLASSES)), np.int64),
        )
        union = confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
        each = {name: 100 * float(confusion[i, i] / union[i]) for i, name in enumerate(CLASSES) if union[i]}
        return {"mIoU": 100 * mean_iou_of(confusion), "IoU": each}

    return run_clips(
        clips,
        PartTask(output, config),
        output=output,
        loaded=loaded,
        options={"task": "vip", **config.model_dump(mode="json", exclude={"batch"})},
        present=lambda clip: True,  # the done-list counts the masks
        score=score,
        resume=resume,
        overwrite=overwrite,
        processes=processes,
        on_clip=on_clip,
    )


def _check_truth(clip: Clip, size: tuple[int, ...]) -> None:
    """Look at all masks before any work: one that cannot be scored fails its clip, not the table of all."""
    for name, path in clip.annotations.items():
        labels = read_clip_mask(clip, name)
        if labels.shape != size:
            raise MaskError(
                f"mask {path} is {labels.shape[1]}x{labels.shape[0]}",
                expected=f"{size[1]}x{size[0]}, as the first one of clip {clip.name}",
                fix="Copy it from the data set again",
            )
        if labels.max() >= len(CLASSES):
            raise MaskError(
                f"mask {path} shows the class {labels.max()}",
                expected=f"0 to {len(CLASSES) - 1}",
                fix="Copy it from the data set again",
            )


def _pairs(clip: Clip, output: Path) -> Iterator[tuple[LabelMap, LabelMap]]:
    for name in clip.annotations:
        yield read_clip_mask(clip, name), read_mask(output / clip.name / f"{name}.png")
