"""Long-term memories as the layers read them: a reference frame that is its own, and frames kept as they are (training)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rmem_deaot.model.attention import attend
from rmem_deaot.model.layer import LayerMemory
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.model.position import temporal_slots


class FrameMemory:
    """Whole frames in the order they came, any number, differentiable; also the self-read of a reference frame.

    Args:
        network: gives heads and temporal positions.
        temporal_position: use them; None = if the network has them.
    """

    def __init__(self, network: AOTNetwork, *, temporal_position: bool | None = None) -> None:
        self.heads = network.heads
        used = network.config.temporal_position if temporal_position is None else temporal_position
        self._current, self._slots = (network.cur_pos_emb, network.mem_pos_emb) if used else (None, None)
        self.frames: list[list[LayerMemory]] = []

    def append(self, frame: Sequence[LayerMemory]) -> None:
        """Add a frame, newest last."""
        self.frames.append(list(frame))

    def __call__(self, layer: int, query: Tensor, own: LayerMemory | None) -> Tensor:
        """Read the stored frames, or `own` alone where it is given."""
        held = [own] if own is not None else [frame[layer] for frame in self.frames]
        keys = self.placed_keys([memory.key for memory in held])
        return attend(self.placed_query(query), keys, _joined(held), heads=self.heads)

    def placed_query(self, query: Tensor) -> Tensor:
        """Return the query with the current frame's position."""
        return query if self._current is None else query + self._current.to(query.dtype)

    def placed_keys(self, keys: Sequence[Tensor]) -> Tensor:
        """Return keys `(B, L, D)` of frames, oldest first, with their positions, as `(B, T * L, D)`."""
        if self._slots is not None:
            keys = [key + self._slots[slot].to(key.dtype) for key, slot in zip(keys, temporal_slots(len(keys)), strict=True)]
        return torch.cat(list(keys), 1) if len(keys) > 1 else keys[0]


def _joined(held: Sequence[LayerMemory]) -> Tensor:
    return torch.cat([memory.value for memory in held], 1) if len(held) > 1 else held[0].value
