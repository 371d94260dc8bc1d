"""The probe: clone demonstrations from frozen embeddings, roll the policy out, keep the best evaluation of each seed."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from rsp_pretrain.probe.embedding import CortexTransform, Embedder, embed_frames, fuse_history
from rsp_pretrain.robot.demos import Episode
from rsp_pretrain.robot.environments import feel
from rsp_pretrain.robot.policy import ClonePolicy, train_epoch
from rsp_pretrain.robot.rollout import Act, roll_out
from vos_core.config import Config
from vos_core.errors import UsageError
from vos_core.io.atomic import write_json
from vos_core.training.optim import build_optimizer


class CloneConfig(Config):
    """How a policy is cloned and judged; the defaults are CortexBench's for its MuJoCo tasks."""

    history: int = Field(default=3, ge=1, description="Embeddings that are fused, see fuse_history.")
    proprio: int = Field(default=0, ge=0, description="Leading numbers of the observation that the policy also gets.")
    hidden: tuple[int, ...] = Field(default=(256, 256, 256), description="Widths of the policy's layers.")
    optimizer: Literal["adam", "adamw"] = Field(default="adam", description="Of the policy; without weight decay.")
    lr: float = Field(default=1e-3, gt=0, description="Learning rate.")
    batch: int = Field(default=256, ge=2, description="Samples of a step.")
    epochs: int = Field(default=100, ge=1, description="Passes over the demonstrations.")
    every: int = Field(default=5, ge=1, description="Epochs between evaluations; there is one after the last as well.")
    rollouts: int = Field(default=25, ge=1, description="Episodes of an evaluation.")
    horizon: int | None = Field(default=None, ge=1, description="Most steps of an episode; empty = the environment's limit.")
    metric: Literal["success", "return"] = Field(default="success", description="What the best evaluation is chosen by.")


def demo_vectors(
    embedder: Embedder, episodes: Sequence[Episode], transform: CortexTransform, *, history: int
) -> tuple[Tensor, Tensor]:
    """Return the policy's inputs `(N, D)` and actions `(N, A)` of all steps of the demonstrations."""
    rows = []
    for one in episodes:
        found = np.stack(list(embed_frames(embedder, one.images, transform)))
        rows.append(np.concatenate([fuse_history(found, history), one.proprio], 1))
    actions = np.concatenate([one.actions for one in episodes])
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(actions)


class EmbeddingPolicy:
    """A cloned policy with its eyes: pictures in, actions out; holds the embeddings of the last frames of an episode."""

    def __init__(self, policy: ClonePolicy, embedder: Embedder, transform: CortexTransform, config: CloneConfig) -> None:
        self.policy, self.embedder, self.transform, self.config = policy.eval(), embedder, transform, config
        self._past: deque[npt.NDArray[np.float32]] = deque(maxlen=config.history)

    def reset(self) -> None:
        """Begin a new episode."""
        self._past.clear()

    @torch.inference_mode()
    def __call__(self, observation: Any, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return the action, float32 `(A,)`."""
        (seen,) = embed_frames(self.embedder, [picture], self.transform, batch=1)
        if not self._past:
            self._past.extend([seen] * self.config.history)  # before the first frame there are copies of it
        else:
            self._past.append(seen)
        fused = fuse_history(np.stack(self._past), self.config.history)[-1]
        vector = np.concatenate([fused, feel(observation, self.config.proprio)])
        action: npt.NDArray[np.float32] = self.policy(torch.from_numpy(vector)[None])[0].numpy()
        return action


def clone(
    environment: Any,
    embedder: Embedder,
    episodes: Sequence[Episode],
    output: Path,
    config: CloneConfig,
    *,
    seeds: Sequence[int],
    info: Mapping[str, Any],
    transform: CortexTransform | None = None,
    on_epoch: Callable[[int, int], object] | None = None,
) -> dict[str, Any]:
    """Clone and judge once per seed and return (and write to `<output>/probe.json`) the best score of each, mean and interval.

    A seed that is done (`<output>/seed_<seed>.json`) is not run again.

    Args:
        environment: see `open_environment`.
        embedder: frozen.
        episodes: demonstrations.
        output: folder of results.
        config: see `CloneConfig`.
        seeds: of policy, batches and episodes.
        info: encoder, environment and demonstrations, for the record.
        transform: of pictures; None = CortexBench's.
        on_epoch: called with (epochs ended, epochs in all).

    Raises:
        UsageError: actions of another size than the environment's, too few samples, or results of other settings in `output`.
        OutputError: `output` cannot be written.
    """
    size = environment.action_space.shape[0]
    if episodes[0].actions.shape[1] != size:
        raise UsageError(f"the demonstrations have {episodes[0].actions.shape[1]} actions, the environment {size}")
    if episodes[0].proprio.shape[1] != config.proprio:
        raise UsageError(f"the demonstrations have {episodes[0].proprio.shape[1]} numbers of state", expected=f"{config.proprio}")
    if sum(len(one.actions) for one in episodes) < 2:
        raise UsageError("one step in all demonstrations", expected="two or more")
    transform = CortexTransform() if transform is None else transform
    settings = json.loads(json.dumps({**info, "config": config.model_dump(mode="json")}))
    done = {seed: found for seed in seeds if (found := _finished(output / f"seed_{seed}.json", settings)) is not None}
    vectors: tuple[Tensor, Tensor] | None = None
    for number, seed in enumerate(seeds):
        if seed in done:
            continue
        if vectors is None:
            vectors = demo_vectors(embedder, episodes, transform, history=config.history)

        def tell(epoch: int, start: int = number * config.epochs) -> None:
            if on_epoch is not None:
                on_epoch(start + epoch, len(seeds) * config.epochs)

        done[seed] = _one_seed(environment, embedder, vectors, transform, config, seed=seed, on_epoch=tell)
        write_json(output / f"seed_{seed}.json", {"settings": settings, "seed": seed, **done[seed]})
    best = [done[seed]["best"] for seed in seeds]
    table = {**summary(best), "metric": config.metric, "seeds": {str(seed): done[seed]["best"] for seed in seeds}, **settings}
    write_json(output / "probe.json", table)
    return table


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return mean and half of the 95 % interval (1.96 standard errors; 0 for a single value).

    >>> summary([1.0, 3.0])["mean"]
    2.0
    """
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "interval": 1.96 * spread / math.sqrt(len(values))}


def _one_seed(
    environment: Any,
    embedder: Embedder,
    data: tuple[Tensor, Tensor],
    transform: CortexTransform,
    config: CloneConfig,
    *,
    seed: int,
    on_epoch: Callable[[int], object],
) -> dict[str, Any]:
    vectors, actions = data
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = ClonePolicy(vectors.shape[1], actions.shape[1], config.hidden)
    optimizer = build_optimizer(config.optimizer, [{"params": list(policy.parameters())}], lr=config.lr, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    evaluations = []
    for epoch in range(1, config.epochs + 1):
        loss = train_epoch(policy, optimizer, vectors, actions, batch=config.batch, generator=generator)
        if epoch % config.every == 0 or epoch == config.epochs:
            judged = _judge(environment, EmbeddingPolicy(policy, embedder, transform, config), config, seed=seed)
            evaluations.append({"epoch": epoch, "loss": loss, **judged})
        on_epoch(epoch)
    return {"best": max(row[config.metric] for row in evaluations), "evaluations": evaluations}


def _judge(environment: Any, policy: EmbeddingPolicy, config: CloneConfig, *, seed: int) -> dict[str, float]:
    """Return success (0-100) and mean return over the rollouts of one evaluation, whose starts are the same each time."""
    rows = []
    for number in range(config.rollouts):
        policy.reset()
        act: Act = policy
        rows.append(roll_out(environment, act, seed=10_000 * seed + number, horizon=config.horizon))
    return {
        "success": 100 * float(np.mean([row.success for row in rows])),
        "return": float(np.mean([row.total for row in rows])),
    }


def _finished(path: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known, result = found["settings"], {name: found[name] for name in ("best", "evaluations")}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no result of a probe ({error})", fix="Delete it, or choose another --output") from error
    if known != settings:
        old, new = ({**given, **given.get("config", {})} for given in (known, settings))  # flat: the option that differs is named
        names = [name for name in sorted({*old, *new} - {"config"}) if old.get(name) != new.get(name)]
        changed = ", ".join(f"{name} was {old.get(name)!r}, now {new.get(name)!r}" for name in names)
        raise UsageError(f"{path} was made with other settings ({changed})", fix="Choose another --output")
    return result
