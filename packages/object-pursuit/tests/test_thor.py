"""Collecting from a simulator: what is asked of it and what is written, with a fake in its place."""

from __future__ import annotations

import re
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from object_pursuit.cli import main
from object_pursuit.data.images import ObjectFolder
from object_pursuit.data.objects import open_objects
from object_pursuit.data.thor import CollectPlan, camera_horizons, collect
from vos_core.errors import UsageError, VosError


class FakeController:
    """A room with two mugs, an apple that hides in odd poses, and a table that cannot be picked up."""

    def __init__(self, *, poses=6, fail=None, stop_after=None):
        self.poses, self.fail, self.stop_after = poses, fail, stop_after
        self.log: list[tuple[str, dict]] = []
        self.pose = 0
        self.seed = None

    def reset(self, scene):
        self.log.append(("reset", {"scene": scene}))
        self.removed = set()
        return self.event()

    def step(self, action, **options):
        self.log.append((action, options))
        if self.stop_after is not None and len(self.log) > self.stop_after:
            raise KeyboardInterrupt
        if action == "InitialRandomSpawn":
            self.seed = options["randomSeed"]
        if action == "RemoveFromScene":
            self.removed.add(options["objectId"])
        if action == "TeleportFull":
            self.pose = options["x"]
        answer = [{"x": k, "y": 0.9, "z": 0.0, "rotation": 0, "horizon": 0, "standing": True} for k in range(self.poses)]
        return self.event(success=action != self.fail, answer=answer if action == "GetInteractablePoses" else None)

    def event(self, *, success=True, answer=None):
        kinds = {"Mug|1": ("Mug", True), "Mug|2": ("Mug", True), "Apple|1": ("Apple", True), "Table|1": ("Table", False)}
        objects = [
            {"objectId": i, "objectType": kind, "pickupable": movable}
            for i, (kind, movable) in kinds.items()
            if i not in getattr(self, "removed", set())
        ]
        mask = np.zeros((12, 12), bool)
        mask[2:6, 2 + self.pose % 4 : 8] = True
        masks = {"Mug|1": mask} if self.pose % 2 else {"Mug|1": mask, "Apple|1": mask.T}
        return SimpleNamespace(
            metadata={"objects": objects, "actionReturn": answer, "lastActionSuccess": success, "errorMessage": "no"},
            frame=np.full((12, 12, 3), 10 * self.pose + (self.seed or 0), np.uint8),
            instance_masks=masks,
        )


def test_files_are_an_ithor_set(tmp_path):
    fake = FakeController()
    counts = collect(fake, CollectPlan("FloorPlan1", spawns=3, images=10), tmp_path)
    assert counts == {"data_FloorPlan1_Apple": 9, "data_FloorPlan1_Mug": 10}
    names = [path.name for path in sorted((tmp_path / "data_FloorPlan1_Mug/imgs").iterdir())]
    assert names[0] == "FloorPlan1_seed_0000_num_000000.png"
    assert names[-1] == "FloorPlan1_seed_0002_num_000009.png"
    found = open_objects("iThor", tmp_path)
    assert [entry.name for entry in found] == ["data_FloorPlan1_Apple", "data_FloorPlan1_Mug"]
    samples = ObjectFolder(found[0], size=(12, 12)).read([0, 1], draw=0)
    assert set(samples.masks.unique().tolist()) == {0.0, 1.0}
    assert [options["randomSeed"] for action, options in fake.log if action == "InitialRandomSpawn"] == [0, 1, 2]
    assert [options["objectId"] for action, options in fake.log if action == "RemoveFromScene"] == ["Mug|2"] * 3


def test_cameras_look_where_the_description_says():
    seen = [camera_horizons(np.random.default_rng(seed)) for seed in range(200)]
    assert {angles[0] for angles in seen} <= set(range(-30, 0))
    assert len({angles[0] for angles in seen}) > 20
    assert all(angles == [min(h + angles[0] + 30, 60) for h in (-30, 0, 30, 60)] for angles in seen)


def test_a_stopped_collection_goes_on(tmp_path):
    plan = CollectPlan("FloorPlan1", objects=("Mug",), spawns=4, images=8, seed=5)
    collect(FakeController(), plan, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        collect(FakeController(stop_after=14), plan, tmp_path / "parts")
    again = FakeController()
    assert collect(again, plan, tmp_path / "parts") == {"data_FloorPlan1_Mug": 8}
    assert sum(action == "reset" for action, _ in again.log) < 4, "finished placements are not repeated"
    files = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").rglob("*.png")}
    assert {p.relative_to(tmp_path / "parts"): p.read_bytes() for p in (tmp_path / "parts").rglob("*.png")} == files
    with pytest.raises(UsageError, match="another plan"):
        collect(FakeController(), CollectPlan("FloorPlan1", objects=("Apple",), seed=5), tmp_path / "parts")


def test_refusals(tmp_path):
    with pytest.raises(UsageError, match=r"FloorPlan1 has no Sofa.*Apple, Mug"):
        collect(FakeController(), CollectPlan("FloorPlan1", objects=("Sofa",)), tmp_path)
    with pytest.raises(VosError, match="refuses InitialRandomSpawn: no"):
        collect(FakeController(fail="InitialRandomSpawn"), CollectPlan("FloorPlan1"), tmp_path)
    with pytest.raises(UsageError, match="one or more"):
        collect(FakeController(), CollectPlan("FloorPlan1", images=0), tmp_path)


def invoke(*args):
    return CliRunner().invoke(main, ["collect-thor", "--scene", "FloorPlan1", *map(str, args)])


def test_command(tmp_path, monkeypatch):
    import sys

    module = ModuleType("ai2thor.controller")
    asked = {}
    module.Controller = lambda **options: asked.update(options) or FakeController()
    monkeypatch.setitem(sys.modules, "ai2thor", ModuleType("ai2thor"))
    monkeypatch.setitem(sys.modules, "ai2thor.controller", module)
    done = invoke("--object", "Mug", "--out", tmp_path, "--change_pos_times", 2, "--max-images", 3)
    assert done.exit_code == 0, done.output
    assert re.search(r"3\s+data_FloorPlan1_Mug", done.stdout)
    assert (asked["width"], asked["height"], asked["fieldOfView"], asked["gridSize"]) == (572, 572, 30, 0.4)
    assert (asked["rotateStepDegrees"], asked["visibilityDistance"], asked["quality"]) == (4, 1.2, "Ultra")

    def broken(**options):
        raise OSError("no display")

    module.Controller = broken
    failed = invoke("--out", tmp_path / "x")
    assert failed.exit_code == 1
    assert "does not start (OSError: no display)" in failed.stderr
    monkeypatch.setitem(sys.modules, "ai2thor", None)
    monkeypatch.setitem(sys.modules, "ai2thor.controller", None)
    absent = invoke("--out", tmp_path / "x")
    assert absent.exit_code == 2
    assert 'pip install "object-pursuit[thor]"' in absent.stderr
