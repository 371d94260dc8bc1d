"""Small clips with exact ground truth: textured objects over a moving background, a pure function of seed and size.

The embedded data of the benchmark and the tests. Every frame can be drawn on its own, so clips of any length stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vos_core.data.synthetic_actor import Actor, Keys, Labels, paint, random_shape
from vos_core.data.synthetic_texture import (
    background_tile,
    generator,
    object_tile,
    palette,
    shifted,
    wave,
)
from vos_core.errors import UsageError
from vos_core.types import RgbImage

GENERATOR_VERSION = 1
"""Raised whenever a seed gives other bytes, so that cached clips are made anew."""

_MAX_PERIOD = 96  # frames in which a scenario's events happen once; longer clips repeat them
_LEAVE: Keys = ((0.0, 0.0), (0.25, 0.0), (0.45, 1.0), (0.6, 1.0), (0.8, 0.0), (1.0, 0.0))
_PASS_BY: Keys = ((0.0, 1.0), (0.1, 1.0), (0.4, 0.0), (0.6, 0.0), (0.9, 1.0), (1.0, 1.0))
_MAX_OBJECTS = 254  # 255 is void


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens in a clip.

    Args:
        summary: one line for help texts.
        reach: how far objects wander, as a share of the frame.
        zoom: share by which objects grow and shrink.
        restyle: how far an object's look changes, 0-1; above 0 the light changes too.
        leaves: every other object, the first included, leaves the frame and comes back.
        late: every object but the first enters after the first frame.
        occluder: scenery passes in front of the first object and hides it wholly.
        lookalikes: unlabelled things that look like the first object.
        similar: all objects share one palette.
    """

    summary: str
    reach: float = 0.35
    zoom: float = 0.0
    restyle: float = 0.0
    leaves: bool = False
    late: bool = False
    occluder: bool = False
    lookalikes: int = 0
    similar: bool = False


SCENARIOS = {
    "motion": Scenario("objects wander and cross each other"),
    "occlusion": Scenario("scenery hides the first object for a while", occluder=True),
    "reentry": Scenario("objects leave the frame and come back", leaves=True),
    "late_entry": Scenario("all objects but the first enter later", late=True),
    "scale": Scenario("objects grow to 1.6 and shrink to 0.4 of their size", zoom=0.6),
    "appearance": Scenario("colours, texture and light change", restyle=0.8),
    "lookalike": Scenario("unlabelled things look like the first object", lookalikes=2),
    "crowd": Scenario("many objects of one palette close together", reach=0.15, similar=True),
    "mixed": Scenario(
        "everything at once", zoom=0.3, restyle=0.5, leaves=True, late=True, occluder=True, lookalikes=1, similar=False
    ),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """A clip that is described and not yet drawn; `draw(t)` depends on nothing but the scene and `t`."""

    seed: int
    frames: int
    height: int
    width: int
    period: int
    light: float
    pan: float
    background: RgbImage
    actors: tuple[Actor, ...]

    def draw(self, index: int) -> tuple[RgbImage, Labels]:
        """Return frame `index`: RGB `(H, W, 3)` and its exact label map `(H, W)`, both uint8.

        Raises:
            UsageError: the clip has no such frame.
        """
        if not 0 <= index < self.frames:
            raise UsageError(f"synthetic clip has no frame {index}", expected=f"0..{self.frames - 1}")
        turns = index / self.period
        top, left = (self.pan * (1.0 + wave(0.6 * turns)), self.pan * (1.0 + wave(0.45 * turns + 0.25)))
        image = shifted(self.background, top, left, height=self.height, width=self.width)
        labels = np.zeros((self.height, self.width), np.uint8)
        for actor in self.actors:
            paint(image, labels, actor, index=index, period=self.period)
        gain = int(256 * (1.0 + self.light * wave(0.5 * turns)))
        grain = generator(self.seed, 2, index).integers(-3, 4, image.shape, dtype=np.int8)
        return np.clip(((image * gain) >> 8) + grain, 0, 255).astype(np.uint8), labels


def render_clip(
    seed: int, *, frames: int = 24, height: int = 240, width: int = 432, objects: int = 2, scenario: str = "mixed"
) -> Iterator[tuple[RgbImage, Labels]]:
    """Yield the frames of a clip one by one, as `Scene.draw` returns them.

    >>> frames = list(render_clip(7, frames=2, height=64, width=96, objects=1, scenario="motion"))
    >>> frames[0][0].shape, int(frames[0][1].max())
    ((64, 96, 3), 1)
    """
    scene = make_scene(seed, frames=frames, height=height, width=width, objects=objects, scenario=scenario)
    return (scene.draw(index) for index in range(frames))


def make_scene(
    seed: int, *, frames: int = 24, height: int = 240, width: int = 432, objects: int = 2, scenario: str = "mixed"
) -> Scene:
    """Return the scene of a seed. The first object, and without late entry every object, is whole in frame 0.

    Raises:
        UsageError: an unknown scenario, or a size, length or object count that cannot be drawn.
    """
    play = _checked(seed, frames, height, width, objects, scenario)
    rng = generator(seed, 1)
    period = min(max(frames, 2), _MAX_PERIOD)
    pan = 0.06 * min(height, width)
    margin = 2 * math.ceil(pan) + 2
    background = background_tile(rng, height + margin, width + margin)
    total = objects + play.lookalikes
    hues = [float(rng.random())] * total if play.similar else _hues(rng, objects, total)
    places, cell = _places(rng, total, height, width)
    if 0.3 * cell < 4.0:
        raise UsageError(
            f"{total} objects do not fit into {height}x{width} pixels",
            expected="14 x 14 pixels for each",
            fix="Use a larger --size",
        )
    actors = []
    for index, (place, hue) in enumerate(zip(places, hues, strict=True)):
        object_id = index + 1 if index < objects else 0
        actors.append(_actor(rng, play, object_id=object_id, hue=hue, place=place, cell=cell, size=(height, width)))
    actors = [_scheduled(actor, play, objects=objects, size=(height, width)) for actor in actors]
    order = [actors[int(i)] for i in np.argsort(rng.random(total), kind="stable")]
    if play.occluder:
        order.append(_occluder(rng, actors[0], size=(height, width)))
    light = 0.25 if play.restyle else 0.05
    return Scene(seed, frames, height, width, period, light, pan, background, tuple(order))


def _checked(seed: int, frames: int, height: int, width: int, objects: int, scenario: str) -> Scenario:
    if scenario not in SCENARIOS:
        raise UsageError(f"no synthetic scenario '{scenario}'", expected=f"one of: {', '.join(SCENARIOS)}")
    if seed < 0:
        raise UsageError(f"seed {seed}", expected="0 or more")
    if frames < 1:
        raise UsageError(f"{frames} frames", expected="at least 1")
    if min(height, width) < 32:
        raise UsageError(f"frame size {height}x{width}", expected="at least 32 pixels a side")
    if not 1 <= objects <= _MAX_OBJECTS:
        raise UsageError(f"{objects} objects", expected=f"1..{_MAX_OBJECTS}, since 0 is background and 255 is void")
    play = SCENARIOS[scenario]
    if play.late and objects < 2:
        raise UsageError(
            f"scenario '{scenario}' with one object", expected="at least 2", fix="Use --objects 2: the others enter late"
        )
    return play


def _hues(rng: np.random.Generator, objects: int, total: int) -> list[float]:
    first = float(rng.random())
    return [first if index >= objects else first + index / objects for index in range(total)]


def _places(rng: np.random.Generator, count: int, height: int, width: int) -> tuple[list[tuple[float, float]], float]:
    """Return `count` centres in cells of their own, and the cells' shorter side."""
    cols = max(1, math.ceil(math.sqrt(count * width / height)))
    rows = math.ceil(count / cols)
    chosen = np.argsort(rng.random(rows * cols), kind="stable")[:count]
    tall, wide = height / rows, width / cols
    side = min(tall, wide, 0.55 * min(height, width))
    places = []
    for cell in chosen:
        row, col = divmod(int(cell), cols)
        y = (row + 0.5) * tall + (tall - side) * (float(rng.random()) - 0.5)
        x = (col + 0.5) * wide + (wide - side) * (float(rng.random()) - 0.5)
        places.append((y, x))
    return places, side


def _actor(
    rng: np.random.Generator,
    play: Scenario,
    *,
    object_id: int,
    hue: float,
    place: tuple[float, float],
    cell: float,
    size: tuple[int, int],
) -> Actor:
    radius = cell * (0.32 + 0.08 * float(rng.random()))
    circles, planes = random_shape(rng)
    tile = max(32, 1 << math.ceil(math.log2(3.0 * radius * (1.0 + play.zoom))))
    colours = palette(hue, saturation=0.6 + 0.3 * float(rng.random()), spread=0.06)
    other = palette(hue + 0.3, saturation=0.6, spread=0.15)
    tiles = (object_tile(rng, colours, tile), object_tile(rng, other, tile))
    target = []
    for start, length in zip(place, size, strict=True):
        low, high = max(radius, start - play.reach * length), min(length - radius, start + play.reach * length)
        target.append(low + (high - low) * float(rng.random()))
    rates = (1.0 / (28 + 40 * float(rng.random())), 1.0 / (28 + 40 * float(rng.random())))
    return Actor(
        object_id, circles, planes, tiles, place, (target[0], target[1]), rates, radius,
        stretch=0.85 + 0.35 * float(rng.random()), tilt=0.45 * (2 * float(rng.random()) - 1),
        zoom=play.zoom, restyle=play.restyle,
    )  # fmt: skip


def _scheduled(actor: Actor, play: Scenario, *, objects: int, size: tuple[int, int]) -> Actor:
    changes: dict[str, object] = {}
    if play.late and actor.object_id > 1:
        enters = 0.2 + 0.5 * (actor.object_id - 1) / objects
        changes = {"keys": ((0.0, 1.0), (enters, 1.0), (min(enters + 0.2, 0.95), 0.0), (1.0, 0.0)), "repeats": False}
    elif play.leaves and actor.object_id % 2 == 1:
        changes = {"keys": _LEAVE}
    return _with(actor, away=_way_out(actor, actor.radius, size), **changes) if changes else actor


def _occluder(rng: np.random.Generator, hidden: Actor, *, size: tuple[int, int]) -> Actor:
    # 1.3 covers the stretch of the hidden object, which keeps its area; zoom comes on top.
    radius = 1.3 * hidden.radius * (1.0 + hidden.zoom)
    tile = max(32, 1 << math.ceil(math.log2(3.0 * radius)))
    look = object_tile(rng, palette(float(rng.random()), saturation=0.25, spread=0.05), tile)
    return _with(
        hidden, object_id=0, circles=((0.0, 0.0, 1.0),), planes=(), tiles=(look, look), radius=radius, stretch=1.0, tilt=0.0,
        zoom=0.0, restyle=0.0, away=_way_out(hidden, radius, size), keys=_PASS_BY, repeats=True, guide=hidden,
    )  # fmt: skip


def _way_out(actor: Actor, radius: float, size: tuple[int, int]) -> tuple[float, float]:
    """Return the sideways displacement that takes the whole path of `actor` beyond the nearer border."""
    bound = 1.4 * radius * (1.0 + actor.zoom) + 2.0
    columns = (actor.start[1], actor.target[1])
    if sum(columns) / 2 < size[1] / 2:
        return 0.0, -(max(columns) + bound)
    return 0.0, size[1] - min(columns) + bound


def _with(actor: Actor, **changes: object) -> Actor:
    fields = {name: getattr(actor, name) for name in Actor.__dataclass_fields__}
    return Actor(**{**fields, **changes})
