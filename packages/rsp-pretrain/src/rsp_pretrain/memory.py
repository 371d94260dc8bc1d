"""The context that labels come from: frames with given masks for ever, the last few others first in, first out."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class Context:
    """Features and soft labels of the source frames, in one buffer whose used part is contiguous.

    Args:
        recent: frames without given masks that are kept.
        pinned: frames with given masks that are kept; beyond that the oldest one but the first leaves.
    """

    def __init__(self, *, recent: int, pinned: int) -> None:
        self.recent, self.pinned = recent, pinned
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._keys: Tensor | None = None
        self._labels: Tensor | None = None
        self._used = 0
        self._recent: deque[int] = deque()
        self._pinned: deque[int] = deque()

    @property
    def keys(self) -> Tensor:
        """Unit-length features of the source frames, `(T, L, D)`."""
        assert self._keys is not None
        return self._keys[: self._used]

    @property
    def labels(self) -> Tensor:
        """Their labels, float32 `(T, L, C)`."""
        assert self._labels is not None
        return self._labels[: self._used]

    @property
    def frames(self) -> int:
        """Source frames held."""
        return self._used

    def add(self, key: Tensor, labels: Tensor, *, given: bool) -> None:
        """Add a frame; the oldest one of its kind leaves where there are too many.

        Args:
            key: unit-length features `(L, D)`, in the dtype to keep.
            labels: `(L, C)`.
            given: its mask was given by the user.
        """
        order, limit = (self._pinned, self.pinned) if given else (self._recent, self.recent)
        if limit == 0:
            return
        if len(order) < limit:
            slot, self._used = self._used, self._used + 1
        elif given and limit > 1:
            slot = order[1]
            del order[1]
        else:
            slot = order.popleft()
        order.append(slot)
        if self._keys is None or self._labels is None:
            # Memory that is never written costs nothing, so a short clip does not pay for a long one.
            self._keys = key.new_empty((self.recent + self.pinned, *key.shape))
            self._labels = labels.new_zeros((self.recent + self.pinned, *labels.shape))
        self._keys[slot] = key
        self._labels[slot] = labels

    def add_channels(self, count: int) -> None:
        """Give every frame `count` more labels, of value 0: objects that enter later."""
        if self._labels is not None and count:
            extra = self._labels.new_zeros((*self._labels.shape[:2], count))
            self._labels = torch.cat((self._labels, extra), 2)

    def keep_channels(self, places: list[int]) -> None:
        """Keep these labels alone; what the others had goes to the background, channel 0."""
        if self._labels is None:
            return
        gone = [place for place in range(self._labels.shape[2]) if place not in places]
        lost = self._labels[:, :, gone].sum(2)
        self._labels = self._labels[:, :, places].contiguous()
        self._labels[:, :, 0] += lost

    def state_bytes(self) -> int:
        """Return the bytes of the frames held."""
        parts = [part for part in (self._keys, self._labels) if part is not None]
        return sum(part[: self._used].numel() * part.element_size() for part in parts)
