"""Dataset ids and slots: groups of segmenters for clips with more objects than one segmenter holds."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vos_core.contract import AdaptiveSegmenter, FrameReader, Segmenter
from vos_core.errors import UsageError, VosError
from vos_core.types import Frame, FrameResult, Prompt


class ObjectSlots:
    """Which object sits in which slot: original ids, sparse and late, onto dense places that never move while the object lives.

    Args:
        limit: slots a group has; None = one group without a limit.

    >>> slots = ObjectSlots(limit=2)
    >>> slots.add([7, 3, 300])
    [0, 0, 1]
    >>> slots.group_ids(0)
    (7, 3)
    """

    def __init__(self, *, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise UsageError(f"a limit of {limit} objects", expected="1 or more")
        self.limit = limit
        self._groups: list[list[int]] = []

    @property
    def ids(self) -> tuple[int, ...]:
        """All ids, group by group in slot order."""
        return tuple(object_id for group in self._groups for object_id in group)

    def __len__(self) -> int:
        return sum(len(group) for group in self._groups)

    def group_ids(self, group: int) -> tuple[int, ...]:
        """Ids of one group in slot order."""
        return tuple(self._groups[group])

    def group_of(self, object_id: int) -> int | None:
        """Return the group that holds `object_id`, or None."""
        return next((index for index, group in enumerate(self._groups) if object_id in group), None)

    def add(self, ids: Iterable[int]) -> list[int]:
        """Return the group of each id; new ids go to the first group with a free slot, else to a new group."""
        found: list[int] = []
        for object_id in ids:
            group = self.group_of(object_id)
            if group is None:
                free = (i for i, members in enumerate(self._groups) if self.limit is None or len(members) < self.limit)
                group = next(free, len(self._groups))
                if group == len(self._groups):
                    self._groups.append([])
                self._groups[group].append(object_id)
            found.append(group)
        return found

    def remove(self, ids: Iterable[int]) -> dict[int, list[int]]:
        """Free the slots of `ids`; returns them by group.

        Raises:
            UsageError: an id that no slot holds; then nothing is removed.
        """
        wanted = list(dict.fromkeys(ids))
        unknown = [object_id for object_id in wanted if self.group_of(object_id) is None]
        if unknown:
            raise UsageError(f"objects {unknown} are not followed", expected=f"ids among {list(self.ids)}")
        freed: dict[int, list[int]] = {}
        for object_id in wanted:
            group = self.group_of(object_id)
            assert group is not None
            self._groups[group].remove(object_id)
            freed.setdefault(group, []).append(object_id)
        return freed

    def clear(self) -> None:
        """Free everything."""
        self._groups.clear()


class GroupedSegmenter:
    """Follows any number of objects with segmenters of `max_objects` slots each; their probabilities are merged softly.

    Args:
        make: returns a further segmenter that gives probabilities; they may share weights.
        max_objects: slots of one segmenter.
    """

    def __init__(self, make: Callable[[], Segmenter], *, max_objects: int) -> None:
        self._make = make
        self._slots = ObjectSlots(limit=max_objects)
        self._members = [make()]

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the merged result of all groups for `frame`."""
        shares = self._share(prompts)
        results = [
            member.step(frame, shares.get(group, ()))
            for group, member in enumerate(self._members[: len(self._slots._groups)])
            if self._slots.group_ids(group)
        ]
        if not results:  # everything was removed
            size = frame.rgb.shape[:2]
            return FrameResult(labels=np.zeros(size, np.uint8), ids=(), probs=np.ones((1, *size), np.float32))
        if len(results) == 1:
            return results[0]
        return _merge(results, frame)

    def _share(self, prompts: Sequence[Prompt]) -> dict[int, list[Prompt]]:
        shares: dict[int, list[Prompt]] = {}
        for prompt, group in zip(prompts, self._slots.add(p.object_id for p in prompts), strict=True):
            shares.setdefault(group, []).append(prompt)
            while group >= len(self._members):
                self._members.append(self._make())
        return shares

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects; an emptied group forgets the clip."""
        for group, gone in self._slots.remove(ids).items():
            if self._slots.group_ids(group):
                self._members[group].remove(gone)
            else:
                self._members[group].reset()

    def reset(self) -> None:
        """Forget the clip; segmenters are kept for the next one."""
        self._slots.clear()
        for member in self._members:
            member.reset()

    def state_bytes(self) -> int:
        """Return the bytes that all groups hold for the clip."""
        return sum(member.state_bytes() for member in self._members)


class AdaptiveGroupedSegmenter(GroupedSegmenter):
    """Groups of segmenters that adapt to the clip first, each to its own objects."""

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Adapt every group to `frames`; groups are filled in time order, as `step` will do."""
        shares: dict[int, dict[int, list[Prompt]]] = {}
        for index in sorted(prompts):
            for group, given in self._share(prompts[index]).items():
                shares.setdefault(group, {})[index] = given
        for group, share in shares.items():
            member = self._members[group]
            assert isinstance(member, AdaptiveSegmenter)
            member.adapt(frames, share)


def group_objects(make: Callable[[], Segmenter], *, max_objects: int | None, adaptive: bool = False) -> GroupedSegmenter:
    """Return a `GroupedSegmenter` over `make`, one that adapts if its members do."""
    assert max_objects is not None, "only methods with a slot limit are grouped"
    kind = AdaptiveGroupedSegmenter if adaptive else GroupedSegmenter
    return kind(make, max_objects=max_objects)


def labels_of(probs: npt.NDArray[np.float32], ids: Sequence[int]) -> npt.NDArray[Any]:
    """Return the label map `(H, W)` of the likeliest object a pixel; uint8, or uint16 if an id needs it.

    Args:
        probs: float32 `(N + 1, H, W)`, background first.
        ids: original ids in slot order.
    """
    kind = np.uint8 if max(ids, default=0) < 256 else np.uint16
    table = np.asarray([0, *ids], dtype=kind)
    return table[probs.argmax(0)]


def fork(segmenter: Segmenter) -> Segmenter | None:
    """Return a second, independent segmenter that shares the network of a fresh `segmenter`; None if it cannot be copied.

    Everything but `torch.nn.Module` objects is copied; modules hold weights only, so sharing them shares no state.
    """
    shared: list[Any] = []
    module_kind: type = sys.modules["torch"].nn.Module if "torch" in sys.modules else type(None)

    class _Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> int | None:
            if obj is None or not isinstance(obj, module_kind):
                return None
            shared.append(obj)
            return len(shared) - 1

    class _Unpickler(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return shared[pid]

    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(segmenter)
    except (pickle.PicklingError, TypeError, AttributeError):  # holds a closure, a lock or a compiled function
        return None
    buffer.seek(0)
    copied: Segmenter = _Unpickler(buffer).load()
    return copied


def _merge(results: Sequence[FrameResult], frame: Frame) -> FrameResult:
    groups = [result.probs for result in results if result.probs is not None]
    if len(groups) != len(results):
        raise VosError(f"the method gave no probabilities for frame {frame.name}, so its groups of objects cannot be merged")
    ids = tuple(object_id for result in results for object_id in result.ids)
    import torch

    from vos_core.ops.aggregate import merge_groups

    probs = torch.softmax(merge_groups([torch.from_numpy(group) for group in groups]), 0).numpy()
    return FrameResult(labels=labels_of(probs, ids), ids=ids, probs=probs)
