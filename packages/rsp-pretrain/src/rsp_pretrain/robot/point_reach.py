"""A toy environment that needs no simulator: push a point to a mark on a plane; drawn by OpenCV."""

from __future__ import annotations

from typing import Any

import cv2
import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

NAME = "rsp_pretrain/PointReach-v0"


class PointReach(gymnasium.Env[npt.NDArray[np.float32], npt.NDArray[np.float32]]):
    """Observation: position and goal, float32 `(4,)` in 0-1. Action: step of at most 0.08 on each axis, float32 `(2,)` in -1..1.

    Args:
        render_mode: only `rgb_array`.
        side: of the pictures in pixels.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own form

    def __init__(self, render_mode: str | None = "rgb_array", side: int = 64) -> None:
        self.render_mode, self.side = render_mode, side
        self.observation_space = spaces.Box(0, 1, (4,), np.float32)
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)
        self._position, self._goal = np.zeros(2, np.float32), np.zeros(2, np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Place point and goal at random."""
        super().reset(seed=seed)
        self._position, self._goal = self.np_random.random((2, 2)).astype(np.float32) * 0.8 + 0.1
        return self._observation(), {}

    def step(self, action: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Move the point; the reward is the negative distance, success a distance below 0.06."""
        self._position = np.clip(self._position + 0.08 * np.clip(action, -1, 1), 0, 1).astype(np.float32)
        distance = float(np.linalg.norm(self._position - self._goal))
        success = distance < 0.06
        return self._observation(), -distance, success, False, {"is_success": success}

    def render(self) -> npt.NDArray[np.uint8]:
        """Return the scene, uint8 `(side, side, 3)`: the goal green, the point red."""
        picture = np.full((self.side, self.side, 3), 40, np.uint8)
        for place, colour, radius in ((self._goal, (60, 220, 90), 7), (self._position, (230, 60, 60), 5)):
            x, y = (int(value * self.side) for value in place)
            cv2.circle(picture, (x, y), radius * self.side // 64, colour, -1)
        return picture

    def _observation(self) -> npt.NDArray[np.float32]:
        return np.concatenate([self._position, self._goal])


def register() -> None:
    """Make the environment known to gymnasium under `NAME`."""
    if NAME not in gymnasium.registry:
        gymnasium.register(NAME, entry_point="rsp_pretrain.robot.point_reach:PointReach", max_episode_steps=40)
