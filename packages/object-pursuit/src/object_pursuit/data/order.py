"""Every order the method depends on: the stream of objects, batches of joint training, crops, rehearsed codes.

All functions draw from a generator that the caller passes, so a phase that is repeated from its seed repeats its order.
"""

from __future__ import annotations

import random
from collections.abc import MutableSequence, Sequence
from typing import Any, Literal, TypeVar

from vos_core.errors import UsageError

T = TypeVar("T")
Strategy = Literal["sequence", "random"]

SHUFFLE_SEED = 1
"""Seed of the object order `sequence` (spec 4.2)."""
SEEN_EVERY = 7
"""Objects between two re-insertions of an earlier one (spec 4.2)."""
REHEARSE_ALL = 10
REHEARSED_SHARE = 0.2
"""Up to `REHEARSE_ALL` codes are remembered in every step of a new base; of more, this share is drawn (spec 4.3)."""


def legacy_shuffle(items: MutableSequence[Any], rng: random.Random) -> None:
    """Shuffle in place as Python did before 3.11 with `random.shuffle(items, random.random)`; orders of published runs need it.

    >>> items = list(range(5))
    >>> legacy_shuffle(items, random.Random(1))
    >>> items
    [1, 4, 2, 3, 0]
    """
    for last in range(len(items) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        items[last], items[other] = items[other], items[last]


def object_stream(
    names: Sequence[T],
    *,
    strategy: Strategy = "sequence",
    seed: int = SHUFFLE_SEED,
    insert_seen: bool = True,
    every: int = SEEN_EVERY,
    limit: int | None = None,
) -> list[T]:
    """Return the order in which objects are met, earlier ones among them again.

    Args:
        names: objects in sorted order.
        strategy: `sequence` is the published order, the same on every machine; `random` draws one from the seed.
        seed: of the shuffle.
        insert_seen: after every `every`-th object repeat an earlier one: the first, then the one at position `every`, ...
            A repeat that falls due with the last object is appended, where the original fails.
        every: objects between two repeats.
        limit: entries kept, repeats counted; None = all.

    Raises:
        UsageError: an unknown strategy, or `every` below 1.
    """
    if strategy not in ("sequence", "random") or every < 1:
        raise UsageError(f"order '{strategy}' with a repeat every {every} objects", expected="sequence or random, 1 or more")
    order, rng = list(names), random.Random(seed)
    if strategy == "sequence":
        legacy_shuffle(order, rng)
    else:
        rng.shuffle(order)
    stream: list[T] = []
    for position, name in enumerate(order):
        stream.append(name)
        if insert_seen and (position + 1) % every == 0:
            stream.append(order[position + 1 - every])
    return stream if limit is None else stream[:limit]


def crop_offset(width: int, height: int, rng: random.Random) -> int:
    """Return where the square of side min(width, height) begins along the longer side, in pixels; any place is as likely."""
    return rng.randint(0, max(width, height) - min(width, height))


def crop_box(width: int, height: int, offset: int) -> tuple[int, int, int, int]:
    """Return (left, upper, right, lower) of the square of side min(width, height) at `offset` along the longer side."""
    side = min(width, height)
    left, upper = (offset, 0) if width >= height else (0, offset)
    return left, upper, left + side, upper + side


def joint_batches(
    lengths: Sequence[int],
    *,
    starts: Sequence[int] | None = None,
    batch_size: int,
    balance: bool = False,
    rng: random.Random,
    partial: Literal["drop", "keep"] = "drop",
) -> list[list[int]]:
    """Return the batches of one epoch of joint training, each of one object, in shuffled order.

    Args:
        lengths: images of each object.
        starts: index of each object's first image among all; None = one after the other.
        batch_size: images in a batch; the rest of an object is dropped.
        balance: give every object as many batches as the one with the fewest; objects without a batch do not count.
        rng: of the shuffles: first inside each object in order, then of the batches.
        partial: `keep` gives an object smaller than a batch one batch of all its images, from two on, instead of none.

    Raises:
        UsageError: `starts` and `lengths` differ in number, or a batch below 1.
    """
    if starts is None:
        starts = [sum(lengths[:place]) for place in range(len(lengths))]
    if len(starts) != len(lengths) or batch_size < 1:
        raise UsageError(f"{len(lengths)} lengths, {len(starts)} starts, batch {batch_size}", expected="one start per length")
    objects: list[list[list[int]]] = []
    for start, length in zip(starts, lengths, strict=True):
        indices = list(range(start, start + length))
        rng.shuffle(indices)
        size = length if partial == "keep" and 2 <= length < batch_size else batch_size
        batches = [indices[first : first + size] for first in range(0, length - size + 1, size)]
        if batches:
            objects.append(batches)
    if balance and objects:
        fewest = min(map(len, objects))
        objects = [batches[:fewest] for batches in objects]
    flat = [batch for batches in objects for batch in batches]
    rng.shuffle(flat)
    return flat


def remembered_picks(codes: int, rng: random.Random) -> list[int]:
    """Return which of `codes` earlier codes one training step of a new base rehearses, in the order drawn (spec 4.3)."""
    count = int(REHEARSED_SHARE * codes) if codes > REHEARSE_ALL else codes
    return rng.sample(range(codes), count)


def few_shot_frames(length: int, shots: int, *, shuffle_seed: int | None = None) -> list[int]:
    """Return the frame of every training sample in few-shot fitting: sample i shows frame i mod `shots` (spec 4.4).

    The number of samples stays that of the sequence, so an epoch has as many steps whatever `shots` is.

    Args:
        length: images of the sequence.
        shots: how many of them may be trained on; 0 or less, or more than there are, means all.
        shuffle_seed: take them in this shuffled order (iThor's images have none of their own); None = the first ones.
    """
    order = list(range(length))
    if shuffle_seed is not None:
        legacy_shuffle(order, random.Random(shuffle_seed))
    count = shots if 0 < shots <= length else length
    return [order[index % count] for index in range(length)]


def scored_subset(length: int, count: int, *, seed: int = 0) -> list[int]:
    """Return the images that few-shot fitting is scored on: all in order, or `count` drawn as torch's `random_split` does."""
    if count <= 0 or count >= length:
        return list(range(length))
    import torch

    order: list[int] = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:count]
