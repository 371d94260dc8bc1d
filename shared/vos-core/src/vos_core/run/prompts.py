"""Which masks a method may see, and when: reads a clip's annotations by its prompt rule while the clip streams by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vos_core.contract import FrameReader
from vos_core.errors import MaskError
from vos_core.io.masks import present_ids, read_clip_mask, read_clip_objects
from vos_core.metrics.source import fit_rounding
from vos_core.types import BinaryMask, Clip, LabelMap, Prompt

MANY_OBJECTS = 20
"""More objects than this in a first mask are more often a spoilt mask (soft edges, a picture) than a crowd."""


class ClipPrompts:
    """Prompts of one clip, found on the fly.

    Args:
        clip: `prompt_rule` `first_frame` gives the first annotated frame only, `first_seen` each id where it first shows up,
            `all` every id on every annotated frame.
        names: the clip's frame names in time order.

    Raises:
        MaskError: no annotation belongs to a frame of the clip.
    """

    def __init__(self, clip: Clip, names: Sequence[str]) -> None:
        self.clip = clip
        self.names = names
        self.warnings: list[str] = []
        self._seen: set[int] = set()
        self._annotated = [index for index, name in enumerate(names) if name in clip.annotations]
        if not self._annotated:
            raise MaskError(
                f"clip '{clip.name}' has no mask for any of its {len(names)} frames",
                expected=f"a mask with the stem of a frame, such as {names[0]}.png" if names else "frames",
            )
        strangers = set(clip.annotations) - set(names)
        if strangers:
            self.warnings.append(f"{len(strangers)} masks belong to no frame, for example {min(strangers)}")
        if clip.prompt_rule == "first_frame":
            self._annotated = self._annotated[:1]
        self._open = set(self._annotated)

    @property
    def ids(self) -> tuple[int, ...]:
        """Ids given so far, ascending."""
        return tuple(sorted(self._seen))

    def at(self, index: int, size: tuple[int, int]) -> list[Prompt]:
        """Return the prompts of frame `index` of `size` (height, width): its ids that no earlier call returned, or all.

        The masks of object folders keep their overlaps.

        Raises:
            MaskError: the mask cannot be read or has another size than the frame.
        """
        if index not in self._open:
            return []
        self._open.discard(index)
        name = self.names[index]
        masks = self._masks(name, size)
        found = set(masks)
        if self.clip.object_ids is not None:
            unlisted = sorted(found - set(self.clip.object_ids))
            if unlisted:
                self.warnings.append(f"mask of frame {name} holds ids {unlisted} that the clip does not list; left out")
            found &= set(self.clip.object_ids)
        every = self.clip.prompt_rule == "all"
        new = sorted(found if every else found - self._seen)
        if not self._seen and len(new) > MANY_OBJECTS:
            self.warnings.append(
                f"the first mask, {self.clip.annotations[name]}, holds {len(new)} objects (ids {new[0]} to {new[-1]}); "
                f"if that is not meant, it may be a picture or have soft edges"
            )
        self._seen.update(new)
        if self.clip.object_ids is not None and self._seen >= set(self.clip.object_ids) and not every:
            self._open.clear()  # every listed object is there: later masks need no reading
        return [Prompt(object_id=object_id, mask=masks[object_id]) for object_id in new]

    def _masks(self, name: str, size: tuple[int, int]) -> dict[int, BinaryMask]:
        """Return the masks of a frame that are not empty, by id, void left out."""
        if self.clip.mask_kind != "objects":
            labels = self._fitted(read_clip_mask(self.clip, name), name, size)
            return {int(value): labels == value for value in present_ids(labels, void=self.clip.void)}
        given = read_clip_objects(self.clip, name).items()
        fitted = {object_id: self._fitted(mask.astype(np.uint8), name, size) > 0 for object_id, mask in given}
        return {object_id: mask for object_id, mask in fitted.items() if mask.any()}

    def _fitted(self, labels: LabelMap, name: str, size: tuple[int, int]) -> LabelMap:
        """Return `labels` at the frame's `size`: one pixel off is a resizer's rounding, more is a mistake."""
        if labels.shape == size:
            return labels
        (rows, columns), (height, width) = labels.shape, size
        found = f"mask {self.clip.annotations[name]} is {columns}x{rows}, its frame {width}x{height}"
        fitted = fit_rounding(labels, size)
        if fitted.shape != size:
            raise MaskError(found, expected="a mask of the frame's size", fix="Give the mask that belongs to the frame")
        warning = f"{found}: last row or column repeated or cut"
        if warning not in self.warnings:
            self.warnings.append(warning)
        return fitted

    def first(self, source: FrameReader) -> tuple[int, list[Prompt]]:
        """Return the index and prompts of the first frame that shows an object.

        Raises:
            MaskError: no mask that the rule allows shows one.
        """
        size = source.read(self._annotated[0]).rgb.shape[:2]
        for index in self._annotated:
            prompts = self.at(index, size)
            if prompts:
                return index, prompts
        listed = "" if self.clip.object_ids is None else f" of the listed ids {sorted(self.clip.object_ids)}"
        path = self.clip.annotations[self.names[self._annotated[0]]]
        where = (
            f"mask {path} shows no object" if len(self._annotated) == 1 else f"its {len(self._annotated)} masks show no object"
        )
        raise MaskError(
            f"clip '{self.clip.name}' has nothing to follow: {where}{listed}",
            fix="Give a mask with at least one pixel that is not background or void",
        )

    def rest(self, size: tuple[int, int]) -> dict[int, list[Prompt]]:
        """Return all prompts not yet given, by frame index."""
        found = {index: self.at(index, size) for index in sorted(self._open)}
        return {index: given for index, given in found.items() if given}

    def missing_warning(self) -> list[str]:
        """Return a warning for listed ids that no mask showed."""
        absent = sorted(set(self.clip.object_ids or ()) - self._seen)
        return [f"listed ids {absent} appear in no mask that was given"] if absent else []


def all_prompts(clip: Clip, source: FrameReader) -> dict[int, list[Prompt]]:
    """Return every prompt of a clip by frame index, for methods that look at the whole clip before they start."""
    prompts = ClipPrompts(clip, source.names)
    index, given = prompts.first(source)
    assert given[0].mask is not None
    height, width = given[0].mask.shape
    return {index: given, **prompts.rest((height, width))}


def count_objects(clip: Clip, source: FrameReader) -> int:
    """Return how many objects a clip's prompts will bring; reads masks unless the clip lists its ids."""
    if clip.object_ids is not None:
        return len(clip.object_ids)
    return sum(len(given) for given in all_prompts(clip, source).values())
