"""Collecting images of one object after the other from AI2-THOR rooms, in the iThor layout (spec section 6).

The simulator is an optional extra (`pip install object-pursuit[thor]`). It downloads a Unity build when it first starts and needs
a display or a GPU. Everything here talks to it through the two members of `Controller`, so others can stand in for it.
"""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from vos_core.errors import UsageError, VosError
from vos_core.io.atomic import write_bytes, write_json
from vos_core.io.masks import write_mask

HORIZONS = (-30, 0, 30, 60)
"""Degrees that the camera looks down in queried poses; each run adds a random offset and stays at or below `LOWEST`."""
HORIZON_OFFSETS = 30
LOWEST = 60
STATE = "collected.json"


class Event(Protocol):
    """What the simulator answers."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """`objects`, `actionReturn`, `lastActionSuccess`, `errorMessage`."""
        ...

    @property
    def frame(self) -> npt.NDArray[np.uint8]:
        """What the camera sees, uint8 `(H, W, 3)` RGB."""
        ...

    @property
    def instance_masks(self) -> Mapping[str, npt.NDArray[np.bool_]]:
        """Object id -> bool `(H, W)`."""
        ...


class Controller(Protocol):
    """The part of `ai2thor.controller.Controller` that is used."""

    def reset(self, scene: str) -> Event:
        """Load a room afresh."""
        ...

    def step(self, action: str, **options: Any) -> Event:
        """Do one action."""
        ...


@dataclass(frozen=True, slots=True)
class CollectPlan:
    """What is collected in one room; the defaults are those of the published data.

    Args:
        scene: such as FloorPlan1.
        objects: types such as Mug; empty = every type that can be picked up.
        spawns: times that objects are placed anew, with seeds `seed`, `seed + 1`, ...
        images: at most so many of an object.
        seed: of the first placement, and of poses.
    """

    scene: str
    objects: tuple[str, ...] = ()
    spawns: int = 120
    images: int = 2000
    seed: int = 0

    @property
    def poses_per_spawn(self) -> int:
        """Poses taken of an object between two placements, so that all placements are seen."""
        return math.ceil(self.images / self.spawns)


def open_controller(*, scene: str, platform: str = "auto") -> Controller:
    """Return a started simulator with the published settings: 572 x 572 pixels, 30 degrees, grid 0.4, steps of 4 degrees, Ultra.

    Args:
        scene: room to start in.
        platform: `auto` needs a display; `cloud` renders without one on a GPU.

    Raises:
        MissingExtraError: ai2thor is not installed.
        VosError: the simulator does not start.
    """
    from vos_core.extras import require

    module = require("ai2thor.controller", extra="thor", purpose="collect data from AI2-THOR", package="object-pursuit")
    options: dict[str, Any] = {}
    if platform == "cloud":
        options["platform"] = require(
            "ai2thor.platform", extra="thor", purpose="collect data from AI2-THOR", package="object-pursuit"
        ).CloudRendering
    try:
        started: Controller = module.Controller(
            scene=scene, width=572, height=572, fieldOfView=30, gridSize=0.4, rotateStepDegrees=4, visibilityDistance=1.2,
            quality="Ultra", renderInstanceSegmentation=True, **options,
        )  # fmt: skip
    except Exception as error:  # the simulator raises whatever its download, display or Unity does
        raise VosError(
            f"AI2-THOR does not start ({type(error).__name__}: {error})",
            expected="a network for its first start (it downloads a Unity build), and a display or a GPU",
            fix="Try --platform cloud on a machine with a GPU, or use object-pursuit synth-data instead",
        ) from error
    return started


def collect(
    controller: Controller, plan: CollectPlan, out: Path, *, on_image: Callable[[str], None] | None = None
) -> dict[str, int]:
    """Write `data_<scene>_<object>/{imgs,masks}/<scene>_seed_SSSS_num_NNNNNN.png` and return object -> images.

    A repeated call goes on at the placement it was stopped in; files of that placement are written again.

    Args:
        controller: the simulator.
        plan: what to collect.
        out: made if absent.
        on_image: called with the object's folder after each image.

    Raises:
        UsageError: a plan without placements or images, an object that the room has not, or a folder of another plan.
        VosError: the simulator refuses an action.
        OutputError: a file that cannot be written.
    """
    if plan.spawns < 1 or plan.images < 1:
        raise UsageError(f"{plan.spawns} placements and {plan.images} images", expected="one or more of each")
    done, counts = _resume(out, plan)
    for spawn in range(done, plan.spawns):
        seed = plan.seed + spawn
        controller.reset(plan.scene)
        _act(controller, "InitialRandomSpawn", randomSeed=seed, forceVisible=False, placeStationary=True)
        targets = _single_targets(controller, plan)
        for kind, object_id in sorted(targets.items()):
            folder = f"data_{plan.scene}_{kind}"
            room = min(plan.poses_per_spawn, plan.images - counts[folder])
            for rgb, mask in _views(controller, object_id, room, np.random.default_rng((seed, *map(ord, kind)))):
                name = f"{plan.scene}_seed_{seed:04d}_num_{counts[folder]:06d}.png"
                buffer = io.BytesIO()
                Image.fromarray(rgb).save(buffer, format="PNG")
                write_bytes(out / folder / "imgs" / name, buffer.getvalue())
                write_mask(out / folder / "masks" / name, mask.astype(np.uint8), binary=True)
                counts[folder] += 1
                if on_image:
                    on_image(folder)
        write_json(
            _state_path(out, plan), {"plan": _plain(plan), "spawns_done": spawn + 1, "images": dict(sorted(counts.items()))}
        )
    return dict(sorted(counts.items()))


def camera_horizons(rng: np.random.Generator) -> list[int]:
    """Return the angles of one query: `HORIZONS` moved down by the same random number of degrees, none beyond `LOWEST`."""
    offset = int(rng.integers(HORIZON_OFFSETS))
    return [min(horizon + offset, LOWEST) for horizon in HORIZONS]


def _views(
    controller: Controller, object_id: str, count: int, rng: np.random.Generator
) -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]]:
    """Return up to `count` images of an object with its mask, from poses that see it."""
    if count < 1:
        return []
    event = _act(controller, "GetInteractablePoses", objectId=object_id, horizons=camera_horizons(rng), standings=[True])
    poses: Sequence[Mapping[str, Any]] = event.metadata.get("actionReturn") or ()
    found = []
    for place in rng.permutation(len(poses)).tolist():
        event = controller.step("TeleportFull", **poses[place])
        mask = event.instance_masks.get(object_id) if event.metadata.get("lastActionSuccess", True) else None
        if mask is not None and mask.any():
            found.append((np.ascontiguousarray(event.frame), np.asarray(mask, bool)))
            if len(found) == count:
                break
    return found


def _single_targets(controller: Controller, plan: CollectPlan) -> dict[str, str]:
    """Remove further instances of every type that can be picked up; return type -> object id of the wanted ones."""
    objects = _act(controller, "Pass").metadata["objects"]
    movable = sorted((one["objectType"], one["objectId"]) for one in objects if one.get("pickupable"))
    first: dict[str, str] = {}
    for kind, object_id in movable:
        if kind in first:
            _act(controller, "RemoveFromScene", objectId=object_id)
        else:
            first[kind] = object_id
    absent = sorted(set(plan.objects) - first.keys())
    if absent:
        raise UsageError(f"{plan.scene} has no {', '.join(absent)}", expected=f"among: {', '.join(first)}")
    return {kind: first[kind] for kind in (plan.objects or first)}


def _act(controller: Controller, action: str, **options: Any) -> Event:
    event = controller.step(action, **options)
    if not event.metadata.get("lastActionSuccess", True):
        raise VosError(f"AI2-THOR refuses {action}: {event.metadata.get('errorMessage', 'it gives no reason')}")
    return event


def _state_path(out: Path, plan: CollectPlan) -> Path:
    return out / f".{plan.scene}.{STATE}"


def _plain(plan: CollectPlan) -> dict[str, Any]:
    return {**asdict(plan), "objects": list(plan.objects)}


def _resume(out: Path, plan: CollectPlan) -> tuple[int, Counter[str]]:
    """Return placements done and images of each folder."""
    path = _state_path(out, plan)
    if not path.exists():
        return 0, Counter()
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        old, done, counts = state["plan"], int(state["spawns_done"]), Counter(state["images"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error})", fix="Remove it to collect this room again") from error
    differing = [key for key, value in _plain(plan).items() if key != "spawns" and old.get(key) != value]
    if differing:
        raise UsageError(
            f"{out} holds images of {plan.scene} by another plan ({', '.join(differing)})", fix="Choose another folder"
        )
    return done, counts
