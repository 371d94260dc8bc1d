"""The long-term bank of a training clip: differentiable, and restricted for every sample of a batch by its own decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rmem_deaot.model.attention import Size, frame_mass
from rmem_deaot.model.layer import LayerMemory
from rmem_deaot.model.long_term import FrameMemory
from rmem_deaot.model.network import AOTNetwork
from vos_core.bank import DropRule, RestrictedBank


@dataclass(frozen=True, slots=True)
class BankLimits:
    """How a training bank is restricted; published trainings did without, as their clips fill four places.

    Args:
        former: frames kept at the front.
        latter: further frames kept.
        rule: which frame leaves.
    """

    former: int = 1
    latter: int = 7
    rule: DropRule = "relevance"


class TrainingMemory(FrameMemory):
    """Frames of the clips of a batch; with limits, each clip drops the frame that its own reading tells it to.

    Args:
        network: see `FrameMemory`.
        batch: clips.
        limits: None = keep all.
    """

    def __init__(self, network: AOTNetwork, *, batch: int, limits: BankLimits | None = None) -> None:
        super().__init__(network)
        self.banks = [
            RestrictedBank(latter=None)
            if limits is None
            else RestrictedBank(former=limits.former, latter=limits.latter, rule=limits.rule)
            for _ in range(batch)
        ]
        self._asked: tuple[Tensor, Tensor] | None = None

    @property
    def held(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the frames held, clip by clip."""
        return tuple(bank.frames for bank in self.banks)

    def __call__(self, layer: int, query: Tensor, own: LayerMemory | None) -> Tensor:
        """Read the stored frames, or `own` alone where it is given."""
        if layer == 0 and own is None and self.banks[0].wants_relevance:
            keys = self.placed_keys([frame[0].key for frame in self.frames])
            self._asked = (self.placed_query(query).detach(), keys.detach())
        return super().__call__(layer, query, own)

    def put(self, number: int, frame: Sequence[LayerMemory], logits: Tensor, size: Size) -> None:
        """Add the frame that read last.

        Args:
            number: of the frame in the clip.
            frame: what each layer remembers of it.
            logits: of it, `(B, 11, H / 4, W / 4)`, background first.
            size: of the stride-16 map.
        """
        shares = self._relevance(logits, size) if self.banks[0].wants_relevance else [()] * len(self.banks)
        places = [bank.add(number, share).place for bank, share in zip(self.banks, shares, strict=True)]
        self.append(frame)
        freed = [place for place in places if place is not None]
        if freed:  # banks of one size are full at the same time
            assert len(freed) == len(places)
            self.frames = _without(self.frames, freed)

    @torch.no_grad()
    def _relevance(self, logits: Tensor, size: Size) -> Sequence[Sequence[float]]:
        assert self._asked is not None, "a bank with frames is read before it is added to"
        mass = frame_mass(*self._asked, heads=self.heads, frames=len(self.frames))
        self._asked = None
        # With aligned corners whatever the network's own rule is, as at inference (spec section 3.4).
        small = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=True)
        foreground = 1 - small.softmax(1)[:, 0].flatten(1)
        shares: list[list[float]] = (mass * foreground[:, :, None]).sum(1).tolist()
        return shares


def _without(frames: Sequence[list[LayerMemory]], places: Sequence[int]) -> list[list[LayerMemory]]:
    """Return one frame less: sample b loses its frame `places[b]`."""
    if len(set(places)) == 1:
        return [frame for place, frame in enumerate(frames) if place != places[0]]
    kept = [[frame for frame in range(len(frames)) if frame != place] for place in places]

    def gathered(index: int, layer: int) -> LayerMemory:
        chosen = [frames[rows[index]][layer] for rows in kept]
        key = torch.stack([memory.key[b] for b, memory in enumerate(chosen)])
        value = torch.stack([memory.value[b] for b, memory in enumerate(chosen)])
        return LayerMemory(key, value, key, value)  # the short-term path has its own newest frame

    return [[gathered(index, layer) for layer in range(len(frames[0]))] for index in range(len(frames) - 1)]
