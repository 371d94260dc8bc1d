"""What the propagation layers of AOT and DeAOT have in common: their inputs, and what they leave for the memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from rmem_deaot.model.attention import Size


@dataclass(slots=True)
class LayerMemory:
    """What one layer remembers of one frame, tokens `(B, L, C)`.

    Args:
        key: 128 channels (DeAOT) or 256 (AOT).
        value: 1024 channels, visual and identity values side by side (DeAOT), or 256 (AOT).
        short_key: what the short-term path uses instead of `key`; the same but in VOST's recurrent form.
        short_value: likewise instead of `value`.
    """

    key: Tensor
    value: Tensor
    short_key: Tensor
    short_value: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        """Return the tensors, those of the short-term path only where they are others."""
        own = (self.key, self.value)
        return own if self.short_key is self.key else (*own, self.short_key, self.short_value)


@dataclass(slots=True)
class Pending:
    """What one layer keeps of the current frame until its mask is known; `write` turns it into a `LayerMemory`.

    Args:
        key: the frame's key.
        value: what the value is made from besides the identity: the visual value (DeAOT), normed tokens (AOT).
        identity: normed identity tokens (DeAOT from its second layer on).
        recurrent: output of the short-term path (VOST's AOT).
    """

    key: Tensor
    value: Tensor
    identity: Tensor | None = None
    recurrent: Tensor | None = None


class LongTermRead(Protocol):
    """Reads the long-term memory of one layer."""

    def __call__(self, layer: int, query: Tensor, own: LayerMemory | None) -> Tensor:
        """Return attended values `(B, L, Dv)`.

        Args:
            layer: which layer asks.
            query: `(B, L, D)`, without a temporal position.
            own: the current frame's memory where its mask is known from the start (a reference frame).
        """
        ...


@dataclass(slots=True)
class LayerInput:
    """What every layer of a frame gets beside tokens.

    Args:
        index: which layer it is.
        size: of the map.
        long: the long-term memory.
        short: this layer's memory of the previous frame; None on a reference frame, which is its own.
        id_emb: identity embedding `(B, L, 256)` of a reference frame; None elsewhere.
    """

    index: int
    size: Size
    long: LongTermRead
    short: LayerMemory | None
    id_emb: Tensor | None
