"""Letting someone act: episodes of an expert become demonstrations, episodes of a policy become scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rsp_pretrain.robot.demos import Episode
from rsp_pretrain.robot.environments import Expert, feel, see

Act = Callable[[Any, npt.NDArray[np.uint8]], npt.NDArray[np.float32]]
"""`(observation, picture) -> action`."""


class Rollout(NamedTuple):
    """How an episode went.

    Args:
        success: whether the environment reported success in any step.
        total: sum of the rewards.
        steps: length.
    """

    success: bool
    total: float
    steps: int


def roll_out(environment: Any, act: Act, *, seed: int, horizon: int | None = None) -> Rollout:
    """Run one episode of a policy.

    Args:
        environment: see `open_environment`.
        act: the policy.
        seed: of the episode's start.
        horizon: most steps; None = the environment's own limit.
    """
    observation, _ = environment.reset(seed=seed)
    success, total, steps = False, 0.0, 0
    while horizon is None or steps < horizon:
        observation, reward, ended, cut, info = environment.step(act(observation, see(environment)))
        total, steps = total + float(reward), steps + 1
        success = success or bool(info.get("is_success", info.get("success", False)))
        if ended or cut:
            break
    return Rollout(success, total, steps)


def demonstrate(
    environment: Any, expert: Expert, *, seed: int, proprio: int = 0, horizon: int | None = None
) -> tuple[Episode, Rollout]:
    """Return one episode of an expert as a demonstration, and how it went.

    Args:
        environment: see `open_environment`.
        expert: who acts.
        seed: of the episode's start.
        proprio: leading numbers of the observation to keep.
        horizon: most steps; None = the environment's own limit.
    """
    images, actions, states = [], [], []

    def act(observation: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        action = np.asarray(expert(environment.unwrapped, observation), np.float32)
        images.append(picture)
        actions.append(action)
        states.append(feel(observation, proprio))
        return action

    went = roll_out(environment, act, seed=seed, horizon=horizon)
    return Episode(np.stack(images), np.stack(actions), np.stack(states)), went
