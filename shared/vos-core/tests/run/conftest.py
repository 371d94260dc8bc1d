"""Tiny clips with a moving square per object, and methods whose behaviour tests can count."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from vos_core.contract import BuildRequest, MethodInfo
from vos_core.types import Clip, Frame, FrameResult, Prompt

MakeClip = Callable[..., Clip]


@pytest.fixture
def make_clip(tmp_path: Path) -> MakeClip:
    """Return a function that writes a clip: object `i` of `births` (id -> frame) is a square in column `i`, moving down."""

    def make(
        name: str = "clip",
        *,
        frames: int = 6,
        size: tuple[int, int] = (48, 64),
        births: Mapping[int, int] | None = None,
        annotated: Sequence[int] | None = None,
        **fields: object,
    ) -> Clip:
        births = births or {1: 0}
        images, masks = tmp_path / "data" / "JPEGImages" / name, tmp_path / "data" / "Annotations" / name
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        rng = np.random.default_rng(len(name))
        ground = rng.integers(0, 120, (*size, 3), dtype=np.uint8)
        annotations = {}
        for index in range(frames):
            picture, labels = ground.copy(), np.zeros(size, np.uint16 if max(births) > 255 else np.uint8)
            for column, (object_id, birth) in enumerate(births.items()):
                if index >= birth:
                    x, y = 4 + 14 * column, 4 + index % (size[0] - 16)
                    picture[y : y + 10, x : x + 10] = (200, (60 + 20 * column) % 256, (250 - 30 * column) % 256)
                    labels[y : y + 10, x : x + 10] = object_id
            cv2.imwrite(str(images / f"{index:05d}.jpg"), picture)
            if index in (annotated if annotated is not None else sorted(set(births.values()))):
                path = masks / f"{index:05d}.png"
                cv2.imwrite(str(path), labels)
                annotations[path.stem] = path
        return Clip(name=name, frames=tuple(sorted(images.iterdir())), annotations=annotations, **fields)  # type: ignore[arg-type]

    return make


class Recorder:
    """Keeps the last given masks, and notes every call; `slots` limits its objects, `fail_at` raises at a frame."""

    def __init__(self, *, slots: int | None = None, fail_at: str | None = None, probabilities: bool = False) -> None:
        self.slots, self.fail_at, self.probabilities = slots, fail_at, probabilities
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.resets = 0
        self.masks: dict[int, np.ndarray] = {}

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        if frame.name == self.fail_at:
            raise RuntimeError("out of luck")
        self.calls.append((frame.name, tuple(prompt.object_id for prompt in prompts)))
        self.masks.update({prompt.object_id: prompt.mask for prompt in prompts})
        assert self.slots is None or len(self.masks) <= self.slots
        ids = tuple(self.masks)
        size = frame.rgb.shape[:2]
        probs = np.stack([np.full(size, 0.5), *(np.where(self.masks[i], 0.9, 0.1) for i in ids)]).astype(np.float32)
        table = np.asarray([0, *ids], np.uint8 if max(ids) < 256 else np.uint16)
        return FrameResult(labels=table[probs.argmax(0)], ids=ids, probs=probs if self.probabilities else None)

    def remove(self, ids: Iterable[int]) -> None:
        for object_id in ids:
            del self.masks[object_id]

    def reset(self) -> None:
        self.masks = {}
        self.resets += 1

    def state_bytes(self) -> int:
        return sum(mask.nbytes for mask in self.masks.values())


def build_recorder(request: BuildRequest) -> Recorder:
    return Recorder(fail_at=request.options.get("fail_at"), probabilities=request.probabilities)


def build_narrow(request: BuildRequest) -> Recorder:
    return Recorder(slots=2, probabilities=request.probabilities)


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def method() -> MethodInfo:
    """A method without weights."""
    return MethodInfo(name="recorder", summary="for tests", build=build_recorder)


@pytest.fixture
def narrow() -> MethodInfo:
    """A method with two slots."""
    return MethodInfo(name="narrow", summary="for tests", build=build_narrow, max_objects=2)
