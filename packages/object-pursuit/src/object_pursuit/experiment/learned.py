"""What has been learned at some point: networks, codes with the weights stored for them, and how good they are now."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from object_pursuit.latent import claims, code_logits
from object_pursuit.model import Hypernet
from object_pursuit.model.primary import run_stages
from object_pursuit.quality import dice
from object_pursuit.samples import Samples
from object_pursuit.segmenter import frozen_encoder


@dataclass(slots=True)
class Learned:
    """A hypernetwork and an encoder with codes.

    Args:
        hypernet: as it is now.
        encoder: as it is now.
        codes: of objects, each `(z_dim,)`.
        names: of these objects.
        stored: what each code generated when it was learned.
    """

    hypernet: Hypernet
    encoder: nn.Module
    codes: list[Tensor] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    stored: list[dict[str, Tensor]] = field(default_factory=list)

    def copy(self) -> Learned:
        """Return one that can be trained without changing this one; stored weights are shared, as they never change."""
        return Learned(
            copy.deepcopy(self.hypernet), copy.deepcopy(self.encoder), list(self.codes), list(self.names), list(self.stored)
        )

    @torch.no_grad()
    def remember(self, name: str, code: Tensor) -> None:
        """Add an object's code with the weights that it generates now."""
        self.codes.append(code.detach().clone())
        self.names.append(name)
        self.stored.append({key: value.detach().clone() for key, value in self.hypernet(code.detach()).items()})


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Held-out Dice of every code: with the weights stored when it was learned, and with the hypernetwork as it is now.

    Args:
        names: of the objects.
        learned: with stored weights.
        now: with the weights that the code generates now.
        tau: below it an object counts as forgotten if it was above.
    """

    names: tuple[str, ...]
    learned: tuple[float, ...]
    now: tuple[float, ...]
    tau: float

    @property
    def drop(self) -> float:
        """Mean of what was lost."""
        return sum(self.learned) / len(self.learned) - sum(self.now) / len(self.now)

    @property
    def forgotten(self) -> tuple[str, ...]:
        """Objects that fell below the threshold."""
        rows = zip(self.names, self.learned, self.now, strict=True)
        return tuple(name for name, before, after in rows if before >= self.tau > after)


def forgetting(state: Learned, heldout: Mapping[str, Samples], *, tau: float) -> Forgetting:
    """Return how well each code of `state` does on held-out pictures of its object, as stored and now."""
    encoder = frozen_encoder(state.encoder, "batch")
    before, after = [], []
    for code, name, stored in zip(state.codes, state.names, state.stored, strict=True):
        samples = heldout[name]
        with torch.inference_mode():
            then = run_stages(samples.images, stored, encoder, dropout=False).logits
        before.append(_score(then, samples))
        after.append(_score(code_logits(state.hypernet, encoder, code[None], samples.images), samples))
    return Forgetting(tuple(state.names), tuple(before), tuple(after), tau)


def accuracy(state: Learned, heldout: Mapping[str, Samples], names: Sequence[str]) -> float:
    """Return the mean held-out Dice, with the hypernetwork as it is now, of the codes of `names`; 0 for those without a code."""
    encoder = frozen_encoder(state.encoder, "batch")
    scores = []
    for name in names:
        if name not in state.names:
            scores.append(0.0)
            continue
        code = state.codes[state.names.index(name)]
        scores.append(_score(code_logits(state.hypernet, encoder, code[None], heldout[name].images), heldout[name]))
    return sum(scores) / len(scores) if scores else 0.0


def claim_matrix(state: Learned, heldout: Mapping[str, Samples], names: Sequence[str], own: Sequence[str]) -> Tensor:
    """Return the held-out Dice of the codes of `own` on every object of `names`, `(own, names)`."""
    if not own:
        return torch.zeros(0, len(names))
    codes = torch.stack([state.codes[state.names.index(name)] for name in own])
    return claims(state.hypernet, frozen_encoder(state.encoder, "batch"), codes, [heldout[name] for name in names])


def _score(logits: Tensor, samples: Samples) -> float:
    return float(dice((logits > 0).float(), samples.masks).mean())
