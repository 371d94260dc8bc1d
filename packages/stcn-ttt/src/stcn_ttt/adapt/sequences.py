"""From a clip and its (pseudo-)masks to batches of training sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stcn_ttt.adapt.config import TttConfig
from stcn_ttt.adapt.objective import Sequences
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.adapt.sampler import TRIES, Choice, LabelSets, accept, draw_distinct_frames, draw_pair, draw_targets, labels_of
from stcn_ttt.prepare import PAD_MULTIPLE, normalise
from vos_core.contract import FrameReader
from vos_core.ops.pad import pad_to_multiple
from vos_core.training.clip_augment import Affine, ColourJitter, ResizedCrop, flip, grey, resize_short_side
from vos_core.types import LabelMap

DEGREES, SHEAR = 15.0, 10.0
GREY_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class _Look:
    """Drawn augmentation of one sequence: common to its frames, and per frame index."""

    mirrored: bool
    crop: ResizedCrop | None
    jitter: ColourJitter | None
    grey: bool
    warps: dict[int, Affine]
    jitters: dict[int, ColourJitter]


class SequenceMaker:
    """Draws sequences of one clip.

    Args:
        frames: the clip.
        masks: pseudo-masks; of all frames under `tt-mcc`, else at least of `annotated`.
        annotated: indices of frames with given masks, ascending.
        config: sampling and augmentation.
        rng: all randomness comes from here.
        device: where tensors go.
    """

    def __init__(
        self,
        frames: FrameReader,
        masks: PseudoMasks,
        annotated: Sequence[int],
        *,
        config: TttConfig,
        rng: np.random.RandomState,
        device: torch.device,
    ) -> None:
        self.frames, self.masks, self.config, self.rng, self.device = frames, masks, config, rng, device
        self.begin = annotated[0]
        self.usable = len(frames) - self.begin
        self.starts = [index - self.begin for index in annotated]
        self.several = len(annotated) > 1

    @property
    def shows_objects(self) -> bool:
        """Whether any frame with a given mask has something to follow."""
        return any(self.masks[self.begin + index].any() for index in self.starts)

    def batch(self, count: int, *, length: int, max_jump: int) -> Sequences:
        """Return `count` sequences of `length` frames as one batch; slots are as many as the widest needs."""
        return stack([self.draw(length=length, max_jump=max_jump) for _ in range(count)])

    def draw(self, *, length: int, max_jump: int) -> Sequences:
        """Return one sequence, accepted by the rule of its loss; one frame long if the clip has no other."""
        # A sequence needs a later frame: an annotation of the last frame cannot start one, unless one frame is enough.
        starts = [index for index in self.starts if length == 1 or index < self.usable - 1]
        if not starts:
            starts, length = self.starts, 1

        def propose() -> Choice:
            first = starts[int(self.rng.randint(len(starts)))] if self.several else starts[0]
            drawn = draw_distinct_frames(self.rng, self.usable, first=first, count=length, max_jump=max_jump)
            frames = [self.begin + index for index in drawn]
            labels = labels_of(self.masks[frames[0]]) - {0}
            targets = draw_pair(self.rng, labels) if self.several else draw_targets(self.rng, labels)
            return Choice(frames, targets, seed=int(self.rng.randint(2**31)))

        if self.config.ttt_loss == "tt-mcc" and not self.several:
            choice = accept(propose, self._label_sets)
        else:
            choice = next((c for c in (propose() for _ in range(TRIES)) if c.targets), None) or propose()
        frames = [*choice.frames[:-1], choice.frames[0]] if choice.closed else choice.frames
        return self._tensors(frames, choice.targets, self._look(choice))

    def _label_sets(self, choice: Choice) -> LabelSets:
        look, (first, last) = self._look(choice), (choice.frames[0], choice.frames[-1])
        return LabelSets(labels_of(self.masks[first]), labels_of(self._mask(first, look)), labels_of(self._mask(last, look)))

    def _look(self, choice: Choice) -> _Look:
        config, rng, frames = self.config, np.random.default_rng(choice.seed), choice.frames
        geometric, colour = "geometric" in config.ttt_augmentations, "colour" in config.ttt_augmentations
        height, width = self.masks[frames[0]].shape
        crop = None
        if config.crops:
            crop = ResizedCrop.draw(
                rng, height, width, size=config.ttt_resolution, scale=config.ttt_scale, ratio=config.ttt_ratio
            )
        return _Look(
            mirrored=geometric and rng.random() < 0.5,
            crop=crop,
            jitter=ColourJitter.draw(rng, brightness=0.1, contrast=0.03, saturation=0.03) if colour else None,
            grey=colour and rng.random() < GREY_SHARE,
            warps={i: Affine.draw(rng, degrees=DEGREES, shear=SHEAR) for i in frames} if geometric else {},
            jitters={i: ColourJitter.draw(rng, brightness=0.01, contrast=0.01, saturation=0.01) for i in frames}
            if colour
            else {},
        )

    def _mask(self, index: int, look: _Look) -> LabelMap:
        picture = Image.fromarray(self.masks[index])
        if look.mirrored:
            picture = flip(picture)
        picture = look.crop.mask(picture) if look.crop else resize_short_side(picture, self.config.ttt_resolution, mask=True)
        if look.warps:
            picture = look.warps[index].mask(picture)
        return np.asarray(picture)

    def _image(self, index: int, look: _Look) -> Tensor:
        picture = Image.fromarray(self.frames.read(index).rgb)
        if look.mirrored:
            picture = flip(picture)
        picture = look.crop.image(picture) if look.crop else resize_short_side(picture, self.config.ttt_resolution)
        if look.jitter:
            picture = look.jitter.image(picture)
        if look.grey:
            picture = grey(picture)
        if look.warps:
            picture = look.warps[index].image(picture)
        if look.jitters:
            picture = look.jitters[index].image(picture)
        return normalise(np.asarray(picture), device=self.device)

    def _tensors(self, frames: Sequence[int], targets: Sequence[int], look: _Look) -> Sequences:
        decoded: dict[int, Tensor] = {}
        for index in frames:
            if index not in decoded:
                decoded[index] = pad_to_multiple(self._image(index, look), PAD_MULTIPLE)[0]
        labels = self._mask(frames[0], look)
        made = label_tensors(labels, targets, several=self.several, compat=self.config.compat_labels, device=self.device)
        return Sequences(torch.stack([decoded[index] for index in frames])[None], *made)


def label_tensors(
    labels: LabelMap, targets: Sequence[int], *, several: bool, compat: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return masks, others, selector and target of a first frame, padded, with a leading batch dimension of 1.

    Args:
        labels: `(H, W)` with the clip's ids.
        targets: ids to follow, in slot order; one id gets an empty second slot.
        several: two-object form: the others of an object are just the other target; else all other objects of the frame count.
        compat: replay the reference: masks compare class numbers 1..O with the ids as they are (spec section 7, point 7).
        device: where tensors go.
    """
    slots = max(2, len(targets))
    plane = np.zeros((slots, *labels.shape), np.float32)
    classes = np.zeros(labels.shape, np.int64)
    ordered = sorted(labels_of(labels) - {0})
    for slot, target in enumerate(targets):
        shown = ordered.index(target) + 1 if compat and not several and target in ordered else target
        plane[slot] = labels == shown
        classes[labels == target] = slot + 1
    if several:
        whole = plane.sum(0)
    else:
        counted = np.isin(labels, range(1, len(ordered) + 1)) if compat else labels > 0
        whole = counted.astype(np.float32)
    others = whole - plane
    if len(targets) == 1:
        others[1] = plane[0]  # the empty second slot sees the object as the other one
    masks, rest = (pad_to_multiple(torch.from_numpy(x).to(device), PAD_MULTIPLE)[0][None] for x in (plane, others))
    padded = pad_to_multiple(torch.from_numpy(classes).to(device), PAD_MULTIPLE)[0][None]
    selector = torch.zeros(1, slots, device=device)
    selector[:, : len(targets)] = 1
    return masks, rest, selector, padded


def stack(items: Sequence[Sequences]) -> Sequences:
    """Return sequences of one size as one batch, with empty slots where some follow fewer objects."""
    if len(items) == 1:
        return items[0]
    slots = max(item.masks.shape[1] for item in items)

    def widened(x: Tensor) -> Tensor:
        return torch.cat((x, x.new_zeros(1, slots - x.shape[1], *x.shape[2:])), 1)

    return Sequences(
        torch.cat([item.images for item in items]),
        torch.cat([widened(item.masks) for item in items]),
        torch.cat([widened(item.others) for item in items]),
        torch.cat([widened(item.selector) for item in items]),
        torch.cat([item.target for item in items]),
    )
