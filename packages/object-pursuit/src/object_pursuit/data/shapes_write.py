"""Drawn objects on disk in the iThor layout: atomic files, resumable, never mixed with other settings."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from object_pursuit.data.shapes import GENERATOR_VERSION, Part, draw_image, object_name
from vos_core.errors import UsageError
from vos_core.io.atomic import write_bytes, write_json
from vos_core.io.masks import write_mask

MANIFEST = "synthetic.json"


@dataclass(frozen=True, slots=True)
class ShapePlan:
    """Which objects are drawn and how often; the defaults are those of the offline experiment.

    Args:
        pretrain: objects 0, 1, ... of `pretrain/`.
        stream: the objects after them, of `stream/`.
        images: pictures of each of these.
        heldout: further pictures of every object, of `heldout/`; 0 = none.
        size: side in pixels.
        seed: of the world.
    """

    pretrain: int = 8
    stream: int = 9
    images: int = 32
    heldout: int = 16
    size: int = 64
    seed: int = 0

    def folders(self) -> list[tuple[str, int, int, Part]]:
        """Return (folder below the root, object, pictures, part) of every object folder."""
        ids = range(self.pretrain + self.stream)
        found: list[tuple[str, int, int, Part]] = [
            (f"{'pretrain' if i < self.pretrain else 'stream'}/{object_name(i)}", i, self.images, "train") for i in ids
        ]
        return found + [(f"heldout/{object_name(i)}", i, self.heldout, "heldout") for i in ids if self.heldout]


def write_shapes(root: Path, plan: ShapePlan, *, on_object: Callable[[str], None] | None = None) -> tuple[str, ...]:
    """Write the objects of `plan` below `root` and return their folders; files that are there already are kept.

    Args:
        root: made if absent.
        plan: which objects.
        on_object: called with each folder's name once it is whole.

    Raises:
        UsageError: settings that cannot be drawn, or a folder that holds something else.
        OutputError: a file that cannot be written.
    """
    if plan.pretrain < 0 or plan.stream < 0 or plan.pretrain + plan.stream < 1 or plan.images < 1 or plan.heldout < 0:
        raise UsageError(f"{plan.pretrain} + {plan.stream} objects of {plan.images} images", expected="at least one of each")
    if plan.size < 16:
        raise UsageError(f"pictures of {plan.size} pixels", expected="a side of at least 16")
    _claim(root, plan)
    for folder, object_id, count, part in plan.folders():
        for index in range(count):
            image, mask = root / folder / "imgs" / f"{index:05d}.png", root / folder / "masks" / f"{index:05d}.png"
            if image.exists() and mask.exists():
                continue
            rgb, inside = draw_image(object_id, index, seed=plan.seed, part=part, size=plan.size)
            buffer = io.BytesIO()
            Image.fromarray(rgb).save(buffer, format="PNG")
            write_bytes(image, buffer.getvalue())
            write_mask(mask, inside.astype(np.uint8), binary=True)
        if on_object:
            on_object(folder)
    return tuple(folder for folder, *_ in plan.folders())


def _claim(root: Path, plan: ShapePlan) -> None:
    """Note the settings in `root`, or check that they are those of the objects there."""
    settings = {"generator": "object-pursuit shapes", "version": GENERATOR_VERSION, **asdict(plan)}
    path = root / MANIFEST
    if path.exists():
        try:
            old = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error})", fix=f"Remove {root} and generate again") from error
        differing = [key for key in settings if not isinstance(old, dict) or old.get(key) != settings[key]]
        if differing:
            raise UsageError(
                f"{root} holds objects of other settings ({', '.join(differing)})",
                fix="Choose another folder or remove this one",
            )
        return
    if root.is_dir() and any(root.iterdir()):
        raise UsageError(f"{root} is not empty", expected="a new folder, or one with drawn objects of the same settings")
    write_json(path, settings)
