"""One view of one clip at the network's size: what is read, what is remembered and when, for all groups of objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmem_deaot.config import SLOTS
from rmem_deaot.memory import GroupBank, ShortTermMemory, relevance, select
from rmem_deaot.model.attention import Size
from rmem_deaot.model.layer import LayerMemory, Pending
from rmem_deaot.model.long_term import FrameMemory
from rmem_deaot.model.network import UNUSED_LOGIT, AOTNetwork
from rmem_deaot.prepare import upsample
from vos_core.bank import BankUpdate, DropRule, RestrictedBank


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerOptions:
    """How a clip is remembered; see `SegmenterConfig` for the meaning of each."""

    gap: int = 5
    former: int = 1
    latter: int = 7
    rule: DropRule = "relevance"
    lazy_statistics: bool = False
    st_skip: int = 1
    temporal_position: bool = False
    all_channels: bool = False

    def policy(self) -> RestrictedBank:
        """Return an empty bank policy."""
        return RestrictedBank(former=self.former, latter=self.latter, rule=self.rule, lazy=self.lazy_statistics)


@dataclass(slots=True)
class _Read:
    """What the current frame read, kept until its mask is known."""

    projected: Tensor
    pending: list[Pending]
    logits: Tensor
    mass: list[Tensor | None]


class Tracker:
    """Follows objects 1, 2, ... through one clip; ten of them make a group with its own long-term bank.

    Each frame takes two calls: `start` for the first one, then `predict` and one of `remember`, `remember_soft` and `refer`.

    Args:
        network: prepared for inference or plain.
        options: how to remember.
        dtype: what the network computes in; logits are float32.
    """

    def __init__(self, network: AOTNetwork, options: TrackerOptions, *, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.options, self.dtype = network, options, dtype
        self.on_update: Callable[[int, BankUpdate], None] | None = None
        self.reset()

    def reset(self) -> None:
        """Forget the clip."""
        self.banks: dict[int, GroupBank] = {}
        self._short = ShortTermMemory(skip=self.options.st_skip)
        self._objects, self._gone = 0, set[int]()
        self._time = self._last = 0
        self._read: _Read | None = None

    @property
    def groups(self) -> tuple[int, ...]:
        """Groups followed, ascending; group g has objects 10 g + 1 ... 10 g + 10."""
        return tuple(self.banks)

    @property
    def short_term(self) -> list[LayerMemory]:
        """The memory of each layer that the next frame's short-term path reads."""
        return self._short.read

    @torch.inference_mode()
    def start(self, image: Tensor, labels: Tensor, objects: int) -> None:
        """Begin with a frame whose objects are known.

        Args:
            image: normalised, `(1, 3, H, W)`.
            labels: integers `(H, W)`, 0 ... objects.
            objects: how many.
        """
        self.reset()
        self._refer(self._encode(image)[0], labels, objects, [])

    @torch.inference_mode()
    def predict(self, image: Tensor, *, labelled: bool = False) -> Tensor:
        """Return logits of the next frame, float32 `(groups, 11, H / 4, W / 4)`, background first; -1e10 where unused.

        Args:
            image: normalised, `(1, 3, H, W)`.
            labelled: whether `refer` will follow instead of `remember`.
        """
        self._time += 1
        projected, skips = self._encode(image)
        measure = labelled or self._time - self._last >= self.options.gap
        mass: list[Tensor | None] = [None] * len(self.banks)

        def read(layer: int, query: Tensor, own: LayerMemory | None) -> Tensor:
            parts = []
            for row, bank in enumerate(self.banks.values()):
                wanted = measure and layer == 0 and bank.policy.wants_relevance
                part, share = bank.read(layer, query[row : row + 1], measure=wanted)
                mass[row] = mass[row] if share is None else share
                parts.append(part)
            return torch.cat(parts) if len(parts) > 1 else parts[0]

        found = self.network.propagate(projected, long=read, short=self._short.read, groups=len(self.banks))
        # Group by group: the decoder's maps at stride 4 are the largest tensors of a frame.
        logits = torch.cat([self.network.decoder(maps.unsqueeze(0), skips) for maps in found.maps]).float()
        logits = logits.masked_fill(self._unused(logits.device), UNUSED_LOGIT)
        self._read = _Read(projected, found.pending, logits, mass)
        return logits

    @torch.inference_mode()
    def remember(self, labels: Tensor) -> None:
        """Take the mask of the frame just predicted, integers `(H, W)` at the network's size."""
        self._remember(self._identity(labels, self.groups))

    @torch.inference_mode()
    def remember_soft(self, probs: Tensor) -> None:
        """Take soft masks of the frame just predicted, `(1 + objects, H, W)` at the network's size, background first."""
        self._remember(self._soft_identity(probs))

    @torch.inference_mode()
    def refer(self, labels: Tensor, objects: int) -> None:
        """Make the frame just predicted a reference: its mask holds objects that were not there before.

        Args:
            labels: integers `(H, W)` at the network's size, all objects.
            objects: how many there are now.
        """
        read, self._read = self._read, None
        assert read is not None, "predict comes first"
        self._refer(read.projected, labels, objects, [read])

    def remove(self, objects: Iterable[int]) -> None:
        """Stop following these objects; a group without any leaves the memory."""
        self._gone |= set(objects)
        rows = [row for row, group in enumerate(self.banks) if self._alive(group)]
        if len(rows) < len(self.banks):
            self.banks = {group: bank for group, bank in self.banks.items() if self._alive(group)}
            if rows:
                self._short.keep(rows)

    def state_bytes(self) -> int:
        """Return the bytes held for the clip."""
        return self._short.state_bytes() + sum(bank.state_bytes() for bank in self.banks.values())

    def _remember(self, id_emb: Tensor) -> None:
        read, self._read = self._read, None
        assert read is not None, "predict comes first"
        layers = self.network.write(read.pending, id_emb)
        self._short.add(layers)
        if self._time - self._last >= self.options.gap:
            self._add(layers, read)

    def _encode(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return what is propagated and what the decoder takes; the encoder's own maps, several times as large, are let go."""
        features = self.network.encode_image(image.to(self.dtype).contiguous(memory_format=torch.channels_last))
        return features.projected, self.network.decoder.skips(features.x16, features.x8, features.x4)

    def _refer(self, projected: Tensor, labels: Tensor, objects: int, reads: Sequence[_Read]) -> None:
        known, self._objects = self.groups, objects
        groups = [group for group in range(-(-objects // SLOTS)) if self._alive(group)]
        id_emb = self._identity(labels, groups)
        own = FrameMemory(self.network, temporal_position=self.options.temporal_position)
        found = self.network.propagate(projected, long=own, id_emb=id_emb, groups=len(groups))
        layers = self.network.write(found.pending, id_emb)
        self._short.restart(layers)
        for group in groups:
            if group not in known:
                self.banks[group] = GroupBank(
                    self.network, self.options.policy(), temporal_position=self.options.temporal_position
                )
        self.banks = {group: self.banks[group] for group in groups}
        self._add(layers, reads[0] if reads else None, measured=known)

    def _add(self, layers: Sequence[LayerMemory], read: _Read | None, *, measured: Sequence[int] | None = None) -> None:
        """Put the current frame into every bank; `measured` are the groups that `read` has rows for, None = all."""
        self._last = self._time
        rows = list(self.banks) if measured is None else list(measured)
        for row, (group, bank) in enumerate(self.banks.items()):
            mass = read.mass[rows.index(group)] if read is not None and group in rows else None
            share = None
            if mass is not None and read is not None:
                share = relevance(mass, self._background(read, rows.index(group)))
            own = list(layers) if len(self.banks) == 1 else [select(memory, [row]) for memory in layers]
            update = bank.add(self._time, own, share)
            if self.on_update is not None:
                self.on_update(group, update)

    def _background(self, read: _Read, row: int) -> Tensor:
        """Return the background's probability per token, `(L,)`; always up-sampled with aligned corners, as the original."""
        small = upsample(read.logits[row : row + 1], Size(*read.projected.shape[2:]), align_corners=True)
        return torch.softmax(small[0], 0)[0].flatten()

    def _identity(self, labels: Tensor, groups: Sequence[int]) -> Tensor:
        """Return the identity embedding `(groups, L, 256)` of a label map `(H, W)`; in each group its objects are 1 ... 10."""
        parts = []
        for first in (SLOTS * group for group in groups):
            own = (labels > first) & (labels <= first + SLOTS)
            parts.append(torch.where(own, labels - first, 0))
        return self.network.encode_identity(self.network.one_hot(torch.stack(parts)))

    def _soft_identity(self, probs: Tensor) -> Tensor:
        """Return the identity embedding `(groups, L, 256)` of soft masks; what is no object of a group is its background."""
        masks = probs.new_zeros(len(self.banks), self.network.config.id_channels, *probs.shape[1:])
        for row, group in zip(masks, self.groups, strict=True):
            own = probs[1 + SLOTS * group : 1 + SLOTS * (group + 1)]
            row[1 : 1 + len(own)] = own
            row[0] = (1 - own.sum(0)).clamp(min=0)
        return self.network.encode_identity(masks.to(self.network.patch_wise_id_bank.weight.dtype))

    def _alive(self, group: int) -> bool:
        last = min(SLOTS * (group + 1), self._objects)
        return any(number not in self._gone for number in range(SLOTS * group + 1, last + 1))

    def _unused(self, device: torch.device) -> Tensor:
        """Return which channels stand for no object, bool `(groups, 11, 1, 1)`."""
        limit = SLOTS * (max(self.banks) + 1) if self.options.all_channels else self._objects
        numbers = [[SLOTS * group + place for place in range(1, SLOTS + 1)] for group in self.banks]
        unused = [[False, *(number > limit or number in self._gone for number in row)] for row in numbers]
        return torch.tensor(unused, device=device)[:, :, None, None]
