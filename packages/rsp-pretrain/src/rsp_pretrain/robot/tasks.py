"""The tasks of published robot-learning tables: their settings, and whether pip can give the simulator (spec 3.5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_SEEDS = (1, 2, 3, 4, 5)
_META_SEEDS = (12345, 23451, 34512, 45123, 51234)


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a benchmark.

    Args:
        simulator: what runs it.
        obstacle: why its published numbers cannot be repeated with what pip installs; empty if they can.
        seeds: of the runs.
        demos: demonstrations used.
        camera: name or number.
        config: fields of `CloneConfig`.
    """

    simulator: str
    obstacle: str
    seeds: tuple[int, ...]
    demos: int
    camera: str
    config: dict[str, Any] = field(default_factory=dict)


_MJ_ENVS = "the environments are those of mj_envs, which is on no package index; gymnasium-robotics' AdroitHand differs"
_META = "published with Meta-World v2; the metaworld package now has v3, so expect other figures"
_DMC = "published returns are normalised by scores that are not given; register dm_control with: pip install shimmy[dm-control]"
_TRIFINGER = "the expert data must be had from CortexBench; trifinger-simulation registers no gymnasium id"
_KITCHEN = "published with mj_envs v3; gymnasium-robotics' FrankaKitchen-v1 is another task definition (D4RL data by minari)"
_RLBENCH = "needs CoppeliaSim, a proprietary download, and rlbench, which is on no package index"


def _adroit(proprio: int) -> Task:
    return Task("mj_envs (Adroit)", _MJ_ENVS, _SEEDS, 100, "vil_camera", {"proprio": proprio, "rollouts": 25})


def _meta() -> Task:
    return Task("Meta-World", _META, _META_SEEDS, 25, "top_cap2", {"proprio": 4, "rollouts": 25, "horizon": 500})


def _dmc() -> Task:
    return Task("dm_control", _DMC, _META_SEEDS, 100, "0", {"rollouts": 10, "metric": "return"})


def _trifinger(epochs: int) -> Task:
    config = {"hidden": (2000, 2000), "optimizer": "adamw", "lr": 1e-4, "batch": 32, "epochs": epochs, "metric": "return"}
    return Task("trifinger-simulation", _TRIFINGER, _SEEDS, 25, "60", config)


def _kitchen() -> Task:
    return Task("Franka Kitchen", _KITCHEN, (1, 2, 3, 4), 25, "left or right", {"hidden": (256, 256), "rollouts": 50})


TASKS: dict[str, Task] = {
    "adroit-pen": _adroit(24),
    "adroit-relocate": _adroit(30),
    **{f"metaworld-{name}": _meta() for name in ("assembly", "bin-picking", "button-press-topdown", "drawer-open", "hammer")},
    **{f"dmc-{name}": _dmc() for name in ("walker-stand", "walker-walk", "reacher-easy", "cheetah-run", "finger-spin")},
    "trifinger-reach": _trifinger(100),
    "trifinger-move": _trifinger(1000),
    **{f"franka-{name}": _kitchen() for name in ("knob1", "light", "sliding-door", "left-door", "micro")},
    **{
        f"rlbench-{name}": Task("RLBench", _RLBENCH, (1, 2, 3, 4), 100, "front")
        for name in ("button", "phone", "umbrella", "wine", "rubbish")
    },
}
"""Task name -> settings; the config of RLBench's is empty because this package does not run it."""
