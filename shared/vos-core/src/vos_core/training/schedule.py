"""Learning rates as plain functions: step (from 0) -> factor on each group's `initial_lr`."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

Schedule = Callable[[int], float]


def constant() -> Schedule:
    """Return 1 at every step."""
    return lambda step: 1.0


def multistep(milestones: Sequence[int], *, gamma: float = 0.1) -> Schedule:
    """Return gamma^k once k of the `milestones` (steps, ascending) are reached."""
    ordered = sorted(milestones)
    return lambda step: gamma ** bisect.bisect_right(ordered, step)


def every(period: int, *, gamma: float) -> Schedule:
    """Return gamma^(step // period)."""
    return lambda step: gamma ** (step // period)


def cosine(total: int, *, floor: float = 0.0) -> Schedule:
    """Return a half cosine from 1 at step 0 to `floor` at step `total`, and `floor` after."""
    return lambda step: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(step, total) / total))


def polynomial(total: int, *, power: float, floor: float = 0.0) -> Schedule:
    """Return `floor + (1 - floor) * (1 - step / (total + 1)) ** power`."""
    return lambda step: floor + (1 - floor) * (1 - min(step, total) / (total + 1)) ** power


def warmed(schedule: Schedule, *, steps: int, floor: float = 0.0) -> Schedule:
    """Return a line from `floor` to 1 over the first `steps` steps, then `schedule` counted from there."""
    return lambda step: floor + (1 - floor) * step / steps if step < steps else schedule(step - steps)


def apply_schedule(optimizer: Optimizer, schedule: Schedule, step: int) -> float:
    """Set each group's rate to `floor + (initial_lr - floor) * schedule(step)`; return the first group's.

    A group may bring its own `floor` (0 if not), its own `schedule`, and `frozen_from`: the step from which its rate and decay
    are 0.
    """
    for group in optimizer.param_groups:
        floor = group.get("floor", 0.0)
        group["lr"] = floor + (group["initial_lr"] - floor) * group.get("schedule", schedule)(step)
        if step >= group.get("frozen_from", math.inf):
            group["lr"] = group["weight_decay"] = 0.0
    return float(optimizer.param_groups[0]["lr"])
