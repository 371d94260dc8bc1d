"""Segmenting a video by codes that are known already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from torch import Tensor

from object_pursuit.config import SegmenterConfig
from object_pursuit.parts import Parts
from object_pursuit.samples import ObjectImages
from object_pursuit.segmenter import ObjectPursuitSegmenter, frozen_encoder
from vos_core.contract import Precision
from vos_core.data.folder import single_video
from vos_core.errors import UsageError
from vos_core.io.atomic import write_json
from vos_core.io.frames import open_clip
from vos_core.io.masks import write_mask

CODES = "codes.json"


def segment_known(
    parts: Parts,
    chosen: Sequence[int],
    video: Path,
    out: Path,
    config: SegmenterConfig,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
) -> int:
    """Write `<out>/<frame>.png` for every frame of a video and return their number; masks that are there are kept.

    Args:
        parts: network and codes.
        chosen: numbers of codes; the k-th becomes id k + 1, as `codes.json` says.
        video: file or folder of frames.
        out: made if absent.
        config: see `SegmenterConfig`; nothing is fitted.
        device: torch device string.
        precision: of the generated networks.

    Raises:
        FrameError: a frame that cannot be read.
        UsageError: `out` holds masks of other codes or settings.
        OutputError: a file that cannot be written.
    """
    told = {
        "codes": {str(place + 1): parts.names[number] for place, number in enumerate(chosen)},
        "norms": [round(float(parts.codes[number].norm()), 5) for number in chosen],
        "video": str(video),
        "settings": {name: getattr(config, name) for name in ("window", "encoder_norm")} | {"resize": list(config.resize)},
        "precision": precision,
    }
    _claim(out / CODES, told)
    encoder = None if parts.encoder is None else frozen_encoder(parts.encoder, config.encoder_norm).to(device)
    segmenter = ObjectPursuitSegmenter(parts.hypernet.to(device), encoder, _unused, config, device=device, precision=precision)
    with closing(open_clip(single_video(video))) as source:
        names = list(source.names)
        done = {path.stem for path in out.glob("*.png")}
        segmenter.know({place + 1: parts.codes[number] for place, number in enumerate(chosen)}, source)
        at_once = config.frames_at_once
        for first in range(0, len(names), at_once):
            batch = range(first, min(first + at_once, len(names)))
            if all(names[index] in done for index in batch):
                continue  # whole batches only, since frames share their statistics
            for index in batch:
                write_mask(out / f"{names[index]}.png", segmenter.step(source.read(index)).labels)
    return len(names)


def _unused(images: ObjectImages, number: int) -> Tensor:
    raise AssertionError("codes that are known are not fitted")


def _claim(path: Path, told: Mapping[str, object]) -> None:
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error})", fix="Choose another --output") from error
        if old != json.loads(json.dumps(told)):
            raise UsageError(f"{path.parent} holds masks of other codes or settings", fix="Choose another --output")
        return
    write_json(path, told)
