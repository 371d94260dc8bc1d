"""Simulators by their gymnasium id, with a camera; and who shows how a task is done."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from vos_core.errors import UsageError, VosError
from vos_core.extras import require

Expert = Callable[[Any, Any], npt.NDArray[np.float32]]
"""`(environment, observation) -> action`."""
_POINT = "rsp_pretrain/PointReach-v0"


def open_environment(name: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """Return a gymnasium environment that draws pictures.

    Args:
        name: gymnasium id: of this package (`rsp_pretrain/PointReach-v0`), gymnasium's own, gymnasium-robotics, Meta-World 3
            (`Meta-World/MT1` with `env_name`), or any that `module:id` registers when `module` is imported.
        arguments: of the environment, such as `width`, `height`, `camera_name`.

    Raises:
        MissingExtraError: gymnasium is not installed.
        UsageError: no such environment, or one whose actions are not a box of numbers.
        VosError: it cannot be made or drawn on this machine.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when mujoco is imported; without a display the default cannot draw
    gymnasium: Any = require("gymnasium", extra="robot", purpose="run a simulator", package="rsp-pretrain")
    from rsp_pretrain.robot.point_reach import register

    register()
    module, separator, rest = name.partition(":")
    if separator:
        name = rest
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"module '{module}' of environment '{name}' cannot be imported ({error})") from error
    with suppress(ImportError):
        gymnasium.register_envs(importlib.import_module("gymnasium_robotics"))
    if name.startswith("Meta-World/"):
        require("metaworld", extra="robot", purpose="run Meta-World (pip install metaworld)", package="rsp-pretrain")
    try:
        environment = gymnasium.make(name, render_mode="rgb_array", **dict(arguments or {}))
        environment.reset(seed=0)
        picture = environment.render()
    except gymnasium.error.Error as error:
        raise UsageError(
            f"environment '{name}' cannot be made ({error})",
            expected="a gymnasium id, for example rsp_pretrain/PointReach-v0 or FetchReach-v4",
            fix='Install what holds it, for example: pip install "rsp-pretrain[robot]"',
        ) from error
    except TypeError as error:
        raise UsageError(f"environment '{name}' does not take these arguments ({error})", fix="Check --env-arg") from error
    except Exception as error:
        raise VosError(
            f"environment '{name}' cannot be drawn here ({type(error).__name__}: {error})",
            fix='Run: pip install "rsp-pretrain[robot]", which takes versions that fit; set MUJOCO_GL to egl (a GPU or Mesa '
            "driver) or osmesa; or take rsp_pretrain/PointReach-v0, which needs neither",
        ) from error
    if np.asarray(picture).ndim != 3 or len(getattr(environment.action_space, "shape", None) or ()) != 1:
        environment.close()
        raise UsageError(f"environment '{name}' has the actions {environment.action_space}", expected="a box of numbers")
    return environment


def see(environment: Any) -> npt.NDArray[np.uint8]:
    """Return what the camera sees, uint8 `(H, W, 3)` RGB."""
    return np.ascontiguousarray(environment.render(), dtype=np.uint8)


def feel(observation: Any, count: int) -> npt.NDArray[np.float32]:
    """Return the first `count` numbers of an observation (of its entry `observation` if it is a dictionary).

    Raises:
        UsageError: it has fewer.
    """
    values = observation["observation"] if isinstance(observation, Mapping) else observation
    flat = np.asarray(values, np.float32).ravel()
    if count > len(flat):
        raise UsageError(f"--proprio {count}", expected=f"at most {len(flat)}, the numbers of this environment's observation")
    return flat[:count]


def choose_expert(environment: str, given: str | None) -> Expert:
    """Return who demonstrates: `module:function`, or the built-in expert of a reaching task.

    Raises:
        UsageError: there is none, or it cannot be imported.
    """
    if given is not None:
        module, separator, function = given.partition(":")
        try:
            found = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise UsageError(f"expert '{given}' cannot be imported ({error})", expected="module:function") from error
        if not separator or not callable(found):
            raise UsageError(f"expert '{given}'", expected="module:function, called with (environment, observation)")
        expert: Expert = found
        return expert
    if environment == _POINT:
        return _reach_point
    if environment.startswith("FetchReach"):
        return _reach_with_fetch
    raise UsageError(
        f"there is no built-in expert for '{environment}'",
        expected=f"{_POINT} or FetchReach, or --expert module:function",
        fix="Pass --expert, or demonstrations that exist with: rsp-pretrain probe clone --demos",
    )


def _reach_point(environment: Any, observation: Any) -> npt.NDArray[np.float32]:
    return np.clip((observation[2:] - observation[:2]) / 0.08, -1, 1).astype(np.float32)


def _reach_with_fetch(environment: Any, observation: Any) -> npt.NDArray[np.float32]:
    action = np.zeros(environment.action_space.shape, np.float32)
    action[:3] = np.clip(10 * (observation["desired_goal"] - observation["achieved_goal"]), -1, 1)
    return action
