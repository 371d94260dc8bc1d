"""Soft masks through one clip at the network's size: when to remember, how given masks enter, who is followed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from stcn_ttt.memory import Memory, Slot
from stcn_ttt.model import STCN
from stcn_ttt.model.network import sum_of_others
from vos_core.bank import RestrictedBank
from vos_core.ops.aggregate import aggregate

KERNEL_SIGMA = 7.0
"""Width of the kernelised readout in stride-16 cells (multi-scale runs of the authors)."""
OBJECTS_AT_ONCE = 8
"""Objects in one batch; at 480x854 each takes about 150 MB while it is decoded in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackerOptions:
    """What `ClipTracker` needs of the configuration; see `SegmenterConfig` for the meaning of each."""

    top: int = 20
    mem_every: int = 5
    include_last: bool = False
    max_frames: int | None = None
    restricted: bool = False
    kernel: bool = False


@dataclass(slots=True)
class _Pending:
    """The previous frame, on its way into memory; it is encoded only when another frame follows."""

    image: Tensor
    key: Tensor
    f16: Tensor
    slot: Slot


class ClipTracker:
    """Propagates the objects of one clip.

    A frame enters memory when `mem_every` frames have passed since the last one that did or since given masks. One with given
    masks always does, and the very last one of a clip never, because a frame is encoded only when the next one comes.

    Args:
        network: as `stcn_ttt.model.fuse.fuse` returns it, or a plain one.
        options: how to remember and read.
        dtype: what the network computes in; similarities and probabilities are float32 at all times.
    """

    def __init__(self, network: STCN, options: TrackerOptions, *, dtype: torch.dtype = torch.float32) -> None:
        self.network, self.options, self.dtype = network, options, dtype
        bank = None
        if options.restricted:
            assert options.max_frames is not None, "a restricted memory has a bound"
            bank = RestrictedBank(latter=options.max_frames - 1)
        self.memory = Memory(max_frames=options.max_frames, bank=bank)
        self.reset()

    def reset(self) -> None:
        """Forget the clip."""
        self.memory.clear()
        self.ids: tuple[int, ...] = ()
        self.probs: Tensor | None = None
        self._time = self._remembered = -1
        self._pending: _Pending | None = None

    @torch.inference_mode()
    def step(self, image: Tensor, masks: Mapping[int, Tensor] | None = None, *, time: int | None = None) -> Tensor:
        """Return probabilities of background and objects, float32 `(N + 1, H, W)`, objects in the order of `ids`.

        Args:
            image: normalised and padded, `(1, 3, H, W)`.
            masks: given masks of this frame, id -> `(H, W)` of 0 and 1; new ids join, known ones are refreshed.
            time: what `mem_every` counts; None = one more than the frame before.
        """
        self._time = self._time + 1 if time is None else time
        image = image.to(self.dtype).contiguous(memory_format=torch.channels_last)
        features = self.network.encode_key(image)
        probs = image.new_ones((1, *image.shape[-2:]), dtype=torch.float32)
        if self.ids:
            self._remember_previous()
            readout = self.memory.read(
                features.key, top=self.options.top, kernel_sigma=KERNEL_SIGMA if self.options.kernel else None
            )
            skips = self.network.decoder_skips(features)
            parts = [self.network.object_logits(part.unsqueeze(0), skips)[0] for part in torch.split(readout, OBJECTS_AT_ONCE)]
            probs = aggregate(torch.sigmoid(torch.cat(parts)))
        if masks:
            probs = self._take(probs, masks)
        slot = self._slot(given=bool(masks))
        self._pending = None if slot is None or not self.ids else _Pending(image, features.key, features.f16, slot)
        self.probs = probs
        return probs

    def remove(self, ids: Iterable[int]) -> None:
        """Stop following these objects, all of them known; frames already given out stay as they are."""
        gone = set(ids)
        assert self.probs is not None
        stay = [place for place, object_id in enumerate(self.ids) if object_id not in gone]
        self.probs = self.probs[[0, *(1 + place for place in stay)]]
        self.ids = tuple(self.ids[place] for place in stay)
        self.memory.remove(gone)
        if not self.ids:
            self._pending = None

    def state_bytes(self) -> int:
        """Return the bytes held for the clip."""
        pending = self._pending
        tensors = [self.probs] + ([] if pending is None else [pending.image, pending.key, pending.f16])
        return self.memory.state_bytes + sum(t.numel() * t.element_size() for t in tensors if t is not None)

    def _slot(self, *, given: bool) -> Slot | None:
        """Return how this frame is to be remembered, None = not at all."""
        if given or self._time - self._remembered >= self.options.mem_every:
            self._remembered = self._time
            return "prompt" if given else "permanent"
        return "temporary" if self.options.include_last else None

    def _take(self, probs: Tensor, masks: Mapping[int, Tensor]) -> Tensor:
        """Return probabilities after given masks: their pixels are theirs alone, they have no others, and all aggregate again.

        So the soft masks of the other objects pass through the aggregation a second time, as in the original.
        """
        new = [object_id for object_id in masks if object_id not in self.ids]
        self.ids += tuple(new)
        objects = torch.cat((probs[1:], probs.new_zeros((len(new), *probs.shape[1:]))))
        stacked = torch.stack([mask.to(probs) for mask in masks.values()])
        objects = torch.where((stacked > 0).any(0), 0.0, objects)
        objects[[self.ids.index(object_id) for object_id in masks]] = stacked
        return aggregate(objects)

    def _remember_previous(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        assert self.probs is not None
        masks = self.probs[1:].unsqueeze(0)
        others = sum_of_others(masks)
        shared = self.network.value_encoder.fuser.block1.share(pending.f16)
        parts = [
            self.network.encode_value(pending.image, pending.f16, own, others=other, part=shared)[0]
            for own, other in zip(torch.split(masks, OBJECTS_AT_ONCE, 1), torch.split(others, OBJECTS_AT_ONCE, 1), strict=True)
        ]
        self.memory.add(pending.key, torch.cat(parts), self.ids, slot=pending.slot, foreground=1 - self.probs[0])
