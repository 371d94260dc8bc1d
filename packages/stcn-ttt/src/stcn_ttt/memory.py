"""What a clip's memory holds: keys shared by all objects, values per object, and which frame leaves when it is full.

Every object of a clip receives every memory frame from its first one on, so an object that entered later remembers a *suffix*
of the frames: keys are stored once, one similarity serves all objects, and objects that entered together share the choice of
nodes as well (a group).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vos_core.bank import RestrictedBank
from vos_core.ops.affinity import TopK, kernel_topk_affinity, sparse_readout, topk_affinity_since

Slot = Literal["prompt", "permanent", "temporary"]
"""`prompt`: a frame with given masks, the last to be dropped; `temporary`: replaced by whatever comes next."""
_FIRST_ROOM = 8


@dataclass(slots=True)
class _Group:
    """Objects that entered in one frame.

    Args:
        start: memory frame that is their first.
        ids: in slot order.
        rows: `(room, cells, objects * channels)`; row `i` belongs to memory frame `start + i`.
    """

    start: int
    ids: list[int]
    rows: Tensor


class Memory:
    """Keys and values of the memory frames of one clip, in buffers that grow by doubling up to the bound.

    With a bound, the oldest frame that carries no prompt leaves first, or the one that a restricted bank names; the clip's
    first frame never does. A temporary frame is not counted.

    Args:
        max_frames: bound of the permanent frames, at least 2; None = none.
        bank: decides which frame leaves, by how much each was read; it must hold `max_frames`.
    """

    def __init__(self, *, max_frames: int | None, bank: RestrictedBank | None = None) -> None:
        if max_frames is not None and max_frames < 2:
            raise ValueError(f"a memory of {max_frames} frames cannot hold the first and the newest")
        if bank is not None and bank.capacity != max_frames:
            raise ValueError(f"a bank of {bank.capacity} frames does not fit a memory of {max_frames}")
        self.max_frames, self._bank = max_frames, bank
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._prompted: list[bool] = []  # one entry per permanent frame
        self._temporary = False
        self._groups: list[_Group] = []
        self._keys: Tensor | None = None  # (1, channels, room * cells)
        self._cells = 0
        self._read: TopK | None = None  # the last read of the group with the longest memory, nodes counted from the first frame
        self._added = 0
        if self._bank is not None:
            self._bank.clear()

    @property
    def frames(self) -> int:
        """Number of permanent frames."""
        return len(self._prompted)

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects in slot order, which is the order they entered in."""
        return tuple(object_id for group in self._groups for object_id in group.ids)

    @property
    def state_bytes(self) -> int:
        """Bytes of the buffers."""
        tensors = [group.rows for group in self._groups] + ([] if self._keys is None else [self._keys]) + [*(self._read or ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def add(self, key: Tensor, values: Tensor, ids: Sequence[int], *, slot: Slot, foreground: Tensor | None = None) -> None:
        """Remember a frame, the one that read last; a temporary frame that was there is gone.

        Args:
            key: `(1, channels, h, w)`.
            values: `(N, channels, h, w)`, one per object of `ids`.
            ids: the known objects in slot order, then new ones.
            slot: what kind of frame it is.
            foreground: `(h', w')` 0-1 of any size, the places whose reading counts for a restricted bank; None = all alike.
        """
        known = self.ids
        if tuple(ids[: len(known)]) != known:
            raise ValueError(f"objects {list(ids)} do not continue {list(known)}")
        self._temporary = slot == "temporary"
        if not self._temporary:
            self._make_room(key, foreground)
        place = self.frames
        self._write_key(key, place)
        rows = values.flatten(2).permute(2, 0, 1)  # (cells, N, channels)
        taken = 0
        fresh = list(ids[len(known) :])
        if fresh:
            self._groups.append(_Group(place, fresh, rows.new_empty(0, self._cells, len(fresh) * rows.shape[2])))
        for group in self._groups:
            group.rows = _with_room(group.rows, place - group.start + 1, self._limit(group.start))
            part = rows[:, taken : taken + len(group.ids)]
            group.rows[place - group.start].view(part.shape).copy_(part)
            taken += len(group.ids)
        if not self._temporary:
            self._prompted.append(slot == "prompt")

    def read(self, query: Tensor, *, top: int, kernel_sigma: float | None = None) -> Tensor:
        """Return what every object reads at the query frame, `(N, channels, h, w)` in slot order.

        Args:
            query: key of the frame, `(1, channels, h, w)`.
            top: memory nodes per query node.
            kernel_sigma: width in cells of the kernelised readout; None = plain.
        """
        assert self._keys is not None, "nothing has been remembered"
        height, width = query.shape[-2:]
        nodes = (self.frames + self._temporary) * self._cells
        keys = self._keys[:, :, :nodes]
        parts = []
        affinities = self._affinities(keys, query, top, kernel_sigma)
        if self._bank is not None:
            self._read = TopK(affinities[0].weights, affinities[0].indices + self._groups[0].start * self._cells)
        for group, affinity in zip(self._groups, affinities, strict=True):
            rows = group.rows.view(1, -1, group.rows.shape[2])
            read = sparse_readout(affinity, rows).view(height, width, len(group.ids), -1)
            parts.append(read.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _affinities(self, keys: Tensor, query: Tensor, top: int, kernel_sigma: float | None) -> list[TopK]:
        """Return one choice of nodes per group, counted from the group's first node."""
        starts = [group.start * self._cells for group in self._groups]
        if kernel_sigma is not None:
            grid = (query.shape[-2], query.shape[-1])
            return [kernel_topk_affinity(keys[:, :, s:], query, top, grid=grid, sigma=kernel_sigma) for s in starts]
        found = topk_affinity_since(keys, query, top, starts=starts)
        return [TopK(item.weights, item.indices - start) if start else item for item, start in zip(found, starts, strict=True)]

    def remove(self, ids: Iterable[int]) -> None:
        """Forget the values of these objects; keys stay while any object is left."""
        gone = set(ids)
        for group in self._groups:
            stay = [place for place, object_id in enumerate(group.ids) if object_id not in gone]
            if len(stay) < len(group.ids):
                rows = group.rows.view(*group.rows.shape[:2], len(group.ids), -1)
                group.rows = rows[:, :, stay].flatten(2)
                group.ids = [group.ids[place] for place in stay]
        self._groups = [group for group in self._groups if group.ids]
        if not self._groups:
            self.clear()

    def _make_room(self, key: Tensor, foreground: Tensor | None) -> None:
        """Drop the frame that has to leave for a permanent one: the bank's, else the oldest without a prompt but the first."""
        if self._bank is not None:
            relevance = self._relevance(key, foreground) if self._bank.wants_relevance else ()
            held = self._bank.frames
            pinned = [held[place] for place, prompted in enumerate(self._prompted) if prompted]
            place = self._bank.add(self._added, relevance, pinned=pinned).place
            self._added += 1
            if place is not None:
                self._evict(place)
        elif self.max_frames is not None and self.frames >= self.max_frames:
            self._evict(next((i for i, prompted in enumerate(self._prompted) if i and not prompted), 1))

    def _relevance(self, key: Tensor, foreground: Tensor | None) -> list[float]:
        """Return how much of the last read each permanent frame was; a frame that came without reading tells none apart."""
        if self._read is None:
            return [1.0] * self.frames
        weights, indices = self._read.weights[0], self._read.indices[0]  # (cells, top)
        if foreground is not None:
            small = F.interpolate(foreground[None, None].float(), size=key.shape[-2:], mode="area")
            weights = weights * small.flatten()[:, None].to(weights)
        mass = weights.new_zeros(self.frames + 1)  # one place more for the temporary frame that may have been read
        mass.index_add_(0, (indices // self._cells).clamp(max=self.frames).flatten(), weights.flatten())
        self._read = None
        return [float(share) for share in mass[:-1].tolist()]

    def _evict(self, place: int) -> None:
        """Free the place of a frame; those behind it move down."""
        assert self._keys is not None
        cells = self._cells
        for frame in range(place, self.frames - 1):  # frame by frame: source and target must not overlap
            self._keys[:, :, frame * cells : (frame + 1) * cells] = self._keys[:, :, (frame + 1) * cells : (frame + 2) * cells]
        for group in self._groups:
            if group.start > place:
                group.start -= 1
                continue
            for frame in range(place - group.start, self.frames - group.start - 1):
                group.rows[frame] = group.rows[frame + 1]
        del self._prompted[place]

    def _write_key(self, key: Tensor, place: int) -> None:
        flat = key.float().flatten(2)
        if self._keys is None:
            self._cells = flat.shape[2]
            self._keys = flat.new_empty(1, flat.shape[1], 0)
        if flat.shape[2] != self._cells:
            raise ValueError(f"a key of {flat.shape[2]} cells does not fit a memory of {self._cells}")
        room = self._keys.shape[2] // self._cells
        if place >= room:
            grown = flat.new_empty(1, flat.shape[1], _room(room, place + 1, self._limit(0)) * self._cells)
            grown[:, :, : self._keys.shape[2]] = self._keys
            self._keys = grown
        self._keys[:, :, place * self._cells : (place + 1) * self._cells] = flat

    def _limit(self, start: int) -> int | None:
        # One place more than the bound, for the temporary frame.
        return None if self.max_frames is None else self.max_frames + 1 - start


def _with_room(rows: Tensor, needed: int, limit: int | None) -> Tensor:
    if rows.shape[0] >= needed:
        return rows
    grown = rows.new_empty(_room(rows.shape[0], needed, limit), *rows.shape[1:])
    grown[: rows.shape[0]] = rows
    return grown


def _room(room: int, needed: int, limit: int | None) -> int:
    """Return the next size of a buffer: double, but never past the bound unless needed (a group's start may still move down)."""
    wanted = max(needed, _FIRST_ROOM, 2 * room)
    return max(needed, wanted if limit is None else min(wanted, limit))
