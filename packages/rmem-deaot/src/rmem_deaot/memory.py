"""What is remembered of a clip: the long-term bank of each group of objects, restricted or not, and the short-term memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from torch import Tensor

from rmem_deaot.model.attention import attend, attend_frames, frame_mass
from rmem_deaot.model.layer import LayerMemory
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.model.position import temporal_slots
from vos_core.bank import BankUpdate, RestrictedBank

SMALL_BANK = 12
"""Frames that a bank has room for from the start."""


class _LayerBank:
    """Keys and values of one layer: one row per place, `(places, L, C)`."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.keys, self.values = key.new_empty(0, *key.shape[1:]), value.new_empty(0, *value.shape[1:])

    def put(self, place: int, key: Tensor, value: Tensor, *, limit: int) -> None:
        """Write a frame's `(1, L, C)` at `place`, at most the place after the last."""
        if place == len(self.keys):
            # A restricted bank takes its room at once, so that memory has no holes of outgrown buffers.
            room = limit if limit <= SMALL_BANK else min(max(2 * place, SMALL_BANK), limit)
            self.keys, self.values = _grown(self.keys, room), _grown(self.values, room)
        self.keys[place], self.values[place] = key[0], value[0]


class GroupBank:
    """Long-term bank of one group of objects.

    A frame that leaves frees its place for the newest: nothing is moved. Reads do not depend on the order of places; temporal
    positions follow the order in which frames came.

    Args:
        network: gives heads and temporal positions.
        policy: which frames stay.
        temporal_position: whether keys and query get their position in time.
    """

    def __init__(self, network: AOTNetwork, policy: RestrictedBank, *, temporal_position: bool) -> None:
        assert policy.capacity is not None, "a bank is bounded"
        self.policy, self.heads = policy, network.heads
        self._current = network.cur_pos_emb if temporal_position else None
        self._slots = network.mem_pos_emb if temporal_position else None
        self._layers: list[_LayerBank] = []
        self._order: list[int] = []
        self._limit = policy.capacity

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers of the frames held, oldest first."""
        return self.policy.frames

    def add(self, frame: int, layers: Sequence[LayerMemory], relevance: Tensor | None = None) -> BankUpdate:
        """Put a frame in and drop another if the bank is full.

        Args:
            frame: its number.
            layers: memory of each layer, tensors `(1, L, C)`.
            relevance: `relevance` of this frame's read, if the policy wants it.
        """
        update = self.policy.add(frame, () if relevance is None else relevance.tolist())
        if not self._layers:
            self._layers = [_LayerBank(memory.key, memory.value) for memory in layers]
        place = len(self._order)
        if update.place is not None:
            # The policy counts the new frame as the last one; it is never the one to leave.
            place = self._order.pop(update.place)
        self._order.append(place)
        for bank, memory in zip(self._layers, layers, strict=True):
            bank.put(place, memory.key, memory.value, limit=self._limit)
        return update

    def read(self, layer: int, query: Tensor, *, measure: bool = False) -> tuple[Tensor, Tensor | None]:
        """Return attended values `(1, L, Dv)` and, if asked for, each frame's share of the attention, float32 `(L, T)`.

        Args:
            layer: which layer asks.
            query: `(1, L, D)`, without a temporal position.
            measure: whether shares are wanted; rows sum to 1, oldest frame first.
        """
        bank, used = self._layers[layer], len(self._order)
        query, positions = self.placed_query(query), self._positions()
        # Added at every read: a second copy of the keys would cost more than the sums.
        keys = bank.keys[:used] if positions is None else bank.keys[:used] + positions.to(query.dtype).unsqueeze(1)
        key, value = (x.flatten(0, 1).unsqueeze(0) for x in (keys, bank.values[:used]))
        if self.heads == 1:
            out, mass = attend_frames(query, key, value, frames=used if measure else 0)
        else:
            out = attend(query, key, value, heads=self.heads)
            mass = frame_mass(query, key, heads=self.heads, frames=used) if measure else None
        return out, None if mass is None else mass[0][:, self._order]

    def placed_query(self, query: Tensor) -> Tensor:
        """Return the query with the current frame's temporal position."""
        return query if self._current is None else query + self._current.to(query.dtype)

    def frame(self, layer: int, position: int) -> tuple[Tensor, Tensor]:
        """Return key and value `(L, C)` of the frame at a position, oldest first."""
        bank, place = self._layers[layer], self._order[position]
        return bank.keys[place], bank.values[place]

    def state_bytes(self) -> int:
        """Return the bytes held."""
        return sum(x.numel() * x.element_size() for bank in self._layers for x in (bank.keys, bank.values))

    def _positions(self) -> Tensor | None:
        """Return the temporal position of each place's frame, `(T, D)`; None = none."""
        if self._slots is None:
            return None
        slots = temporal_slots(len(self._order))
        by_place = sorted(range(len(slots)), key=lambda position: self._order[position])
        return self._slots.detach()[[slots[position] for position in by_place]]


class ShortTermMemory:
    """The memories of the latest frames, for all groups at once.

    Args:
        skip: the one that is read is that many frames old; 1 = the previous frame.
    """

    def __init__(self, *, skip: int = 1) -> None:
        self._frames: deque[list[LayerMemory]] = deque(maxlen=skip)

    def restart(self, layers: list[LayerMemory]) -> None:
        """Take a reference frame, which is read until `skip` frames have come after it."""
        self._frames.clear()
        self._frames.append(layers)

    def add(self, layers: list[LayerMemory]) -> None:
        """Take the memory of the newest frame."""
        self._frames.append(layers)

    @property
    def read(self) -> list[LayerMemory]:
        """Memory of each layer, tensors `(groups, L, C)`."""
        return self._frames[0]

    def keep(self, rows: list[int]) -> None:
        """Keep these groups only."""
        kept = [[select(memory, rows) for memory in frame] for frame in self._frames]
        self._frames.clear()
        self._frames.extend(kept)

    def state_bytes(self) -> int:
        """Return the bytes held."""
        return sum(x.numel() * x.element_size() for frame in self._frames for memory in frame for x in memory.tensors())


def select(memory: LayerMemory, rows: list[int]) -> LayerMemory:
    """Return the memory of these groups."""
    key, value = memory.key[rows], memory.value[rows]
    if memory.short_key is memory.key:
        return LayerMemory(key, value, key, value)
    return LayerMemory(key, value, memory.short_key[rows], memory.short_value[rows])


def relevance(mass: Tensor, background: Tensor) -> Tensor:
    """Return each frame's relevance, `(T,)`: attention that it gets from the foreground, not normalised (spec section 3.4).

    Args:
        mass: `(L, T)`.
        background: probability of background in each cell, `(L,)`.
    """
    return ((1 - background).unsqueeze(1) * mass).sum(0)


def _grown(rows: Tensor, room: int) -> Tensor:
    grown = rows.new_empty(room, *rows.shape[1:])
    grown[: len(rows)] = rows
    return grown
