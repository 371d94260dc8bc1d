"""Drawn objects: coloured shapes on soft backgrounds among distractors, exact masks, a function of (seed, object, image) alone.

They stand in for iThor where there is no simulator: cheap to learn, and objects of near hues can be told apart only just, so a
stream of them exercises every decision of a pursuit (spec section 9).
"""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from object_pursuit.samples import HeldImages

Part = Literal["train", "heldout"]
Coordinates = npt.NDArray[np.float64]
GENERATOR_VERSION = 1
GOLDEN_STEP = 0.381966
"""Hues advance by the golden angle, so neighbouring numbers look different and late ones fall between early ones."""
MIN_HUE_DISTANCE = 0.12
"""On the circle of circumference 1: distractors are never closer in hue to the target than this."""
UNIVERSE = 64
"""Objects that distractors are drawn from."""
_PARTS = {"train": 0, "heldout": 1}

SHAPES: tuple[tuple[str, Callable[[Coordinates, Coordinates], npt.NDArray[np.bool_]]], ...] = (
    ("disk", lambda x, y: np.hypot(x, y) < 1),
    ("square", lambda x, y: np.maximum(abs(x), abs(y)) < 0.9),
    ("ring", lambda x, y: (np.hypot(x, y) > 0.5) & (np.hypot(x, y) < 1)),
    ("cross", lambda x, y: (np.minimum(abs(x), abs(y)) < 0.35) & (np.maximum(abs(x), abs(y)) < 1)),
    ("triangle", lambda x, y: (y > 2 * abs(x) - 1) & (y < 0.8)),
)


@dataclass(frozen=True, slots=True)
class ShapeObject:
    """What stays the same of an object in all its pictures: hue 0-1, shape, whether it is striped."""

    object_id: int
    hue: float
    shape: str
    striped: bool

    @classmethod
    def of(cls, object_id: int, *, seed: int = 0) -> ShapeObject:
        """Return object `object_id` of the world `seed`; the seed decides the stripes.

        >>> ShapeObject.of(6).shape
        'square'
        """
        hue = (GOLDEN_STEP * object_id) % 1.0
        striped = bool(np.random.default_rng((seed, object_id)).random() < 0.5)
        return cls(object_id, hue, SHAPES[object_id % len(SHAPES)][0], striped)

    def far_from(self, other: ShapeObject) -> bool:
        """Return whether the hues differ enough for one to be the other's distractor."""
        distance = abs(self.hue - other.hue)
        return min(distance, 1 - distance) >= MIN_HUE_DISTANCE


def draw_image(
    object_id: int, index: int, *, seed: int = 0, part: Part = "train", size: int = 64
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return one picture, uint8 `(size, size, 3)`, and the mask of its target, bool `(size, size)`.

    Args:
        object_id: the target.
        index: which picture of it.
        seed: of the world.
        part: pictures of `heldout` are never among those of `train`.
        size: side in pixels.
    """
    rng = np.random.default_rng((seed, object_id, _PARTS[part], index))
    corners = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    ground = np.asarray(Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC), np.float64)
    canvas = ground * 0.5 + 60 + rng.normal(0, 8, (size, size, 3))
    target, others = ShapeObject.of(object_id, seed=seed), _distractors(object_id, seed)
    for _ in range(int(rng.integers(1, 3))):
        _paint(canvas, others[int(rng.integers(len(others)))], rng)
    mask = _paint(canvas, target, rng)
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), mask


@functools.cache
def _distractors(object_id: int, seed: int) -> tuple[ShapeObject, ...]:
    target = ShapeObject.of(object_id, seed=seed)
    others = (ShapeObject.of(number, seed=seed) for number in range(UNIVERSE))
    return tuple(other for other in others if other.far_from(target))


def _paint(canvas: Coordinates, shape: ShapeObject, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Paint one object somewhere and return the pixels that it covers."""
    size = canvas.shape[0]
    centre_x, centre_y = rng.uniform(0.25, 0.75, 2) * size
    scale, angle, value = rng.uniform(0.18, 0.32) * size, rng.uniform(0, 2 * np.pi), rng.uniform(0.75, 1)
    places = np.arange(size, dtype=np.float64)
    dx, dy = ((places - centre_x) / scale)[None], ((places - centre_y) / scale)[:, None]
    x, y = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = dict(SHAPES)[shape.shape](x, y)
    colour = np.array(colorsys.hsv_to_rgb(shape.hue, 0.9, value)) * 255
    shade = np.where(np.sin(6 * x[inside]) > 0, 0.65, 1.0) if shape.striped else np.ones(int(inside.sum()))
    canvas[inside] = colour * shade[:, None] + rng.normal(0, 6, canvas.shape)[inside]
    return inside


def held_object(object_id: int, count: int, *, seed: int = 0, part: Part = "train", size: int = 64) -> HeldImages:
    """Return the first `count` pictures of an object as tensors in memory, named as `synth-data` names its folder."""
    import torch

    from object_pursuit.samples import HeldImages, Samples

    drawn = [draw_image(object_id, index, seed=seed, part=part, size=size) for index in range(count)]
    images = torch.from_numpy(np.stack([rgb for rgb, _ in drawn])).permute(0, 3, 1, 2).float().div_(255).contiguous()
    masks = torch.from_numpy(np.stack([mask for _, mask in drawn]))[:, None].float()
    return HeldImages(object_name(object_id), Samples(images, masks))


def object_name(object_id: int) -> str:
    """Return the name of an object's folder.

    >>> object_name(8)
    'obj_008'
    """
    return f"obj_{object_id:03d}"
