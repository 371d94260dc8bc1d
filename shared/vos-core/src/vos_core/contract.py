"""The contract between the streaming session and a method, and the discovery of installed methods.

A method package announces a `MethodInfo` through an entry point in the group `vos.methods`; importing it must not import torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from vos_core.errors import UsageError
from vos_core.types import Frame, FrameResult, Prompt

ENTRY_POINT_GROUP = "vos.methods"
Precision = Literal["fp32", "bf16", "fp16"]
PromptKind = Literal["mask", "points", "box"]


class FrameReader(Protocol):
    """Random access to the frames of one clip, decoded on demand."""

    @property
    def names(self) -> Sequence[str]:
        """Frame names in time order."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Frame:
        """Return one decoded frame."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Follows objects through one clip, frame by frame, with bounded memory."""

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size.

        The first call brings prompts. Any later call may bring more: new objects, or corrections of known ones.
        Frames come in time order without gaps; a step costs memory that does not depend on how many came before.
        """
        ...

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects; ids that are not known are an error."""
        ...

    def reset(self) -> None:
        """Forget the clip; keep weights. The next `step` begins a new clip."""
        ...

    def state_bytes(self) -> int:
        """Return the bytes that the memory of the current clip holds, weights left out."""
        ...


@runtime_checkable
class AdaptiveSegmenter(Segmenter, Protocol):
    """A segmenter that looks at the whole clip before it starts (test-time training)."""

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Adapt to one clip; `prompts` maps frame index -> prompts. Undone by `reset`."""
        ...


@runtime_checkable
class LengthAware(Protocol):
    """A segmenter whose memory is planned by the length of the clip (AOT's long-term gap)."""

    def expect(self, frames: int) -> None:
        """Take the number of frames of the clip that begins with the next `step`. Undone by `reset`."""
        ...


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """How the session wants a segmenter.

    Args:
        variant: one of `MethodInfo.variants`, or None for the default.
        weights: a local checkpoint file, or None for seeded (untrained) weights.
        seed: seeds untrained weights and everything random in the method.
        device: torch device string, `cpu` or `cuda[:i]`.
        precision: parity path is `fp32`; others are faster and bounded by tests.
        options: `--set` and YAML values for the method's own configuration, as strings or parsed values.
        probabilities: whether `FrameResult.probs` is wanted.
    """

    variant: str | None = None
    weights: Path | None = None
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "fp32"
    options: Mapping[str, Any] = field(default_factory=dict)
    probabilities: bool = False


@dataclass(frozen=True, slots=True)
class MethodInfo:
    """A method as the runtime sees it; cheap to import.

    Args:
        name: what `--method` takes.
        summary: one line for `vos methods`.
        build: makes a segmenter; imports torch only when called.
        variants: names of released variants, first = default; empty if there is one form only.
        weights: variant (or "" without variants) -> names in the weights registry that fit, first = default; empty = needs none.
        max_objects: slots of one segmenter; the runtime groups further objects. None = no limit.
        prompts: kinds of prompts that `step` takes.
        adaptive: some variant's segmenter has `adapt`.
        options: option name -> help text with the default, for `vos methods NAME`; see `vos_core.config.option_help`.
        image_backend: decoder of image files, `pillow` or `opencv`: the one that the method's published numbers were made with.
        register: called once before a weights name is looked up, to add this method's registry entries; None if it has none.
        settings: the value of every option in a run that a request asks for, as JSON values, for `run.json`; it raises
            `ConfigError` as `build` does. None: only the options that were given are known.
    """

    name: str
    summary: str
    build: Callable[[BuildRequest], Segmenter]
    variants: tuple[str, ...] = ()
    weights: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    max_objects: int | None = None
    prompts: frozenset[PromptKind] = frozenset({"mask"})
    adaptive: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    image_backend: Literal["pillow", "opencv"] = "pillow"
    register: Callable[[], None] | None = None
    settings: Callable[[BuildRequest], Mapping[str, Any]] | None = None

    @property
    def needs_weights(self) -> bool:
        """Whether results depend on trained weights."""
        return bool(self.weights)


def discover() -> dict[str, MethodInfo]:
    """Return every installed method that loads, by name, in name order; one that does not is left out with a warning."""
    found: dict[str, MethodInfo] = {}
    for point in _entry_points():
        try:
            found[point.name] = _load(point)
        except UsageError as error:
            warnings.warn(str(error), stacklevel=2)
    return found


def get_method(name: str) -> MethodInfo:
    """Return the installed method called `name`.

    Raises:
        UsageError: no such method (the message lists those installed), or its entry point is broken.
    """
    points = {point.name: point for point in _entry_points()}
    if name not in points:
        raise UsageError(
            f"no method '{name}' is installed",
            expected=f"one of: {', '.join(points)}",
            fix="Install the package that brings it, or take one that is there; see: vos methods",
        )
    return _load(points[name])


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)


def _load(point: EntryPoint) -> MethodInfo:
    try:
        info = point.load()
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"method '{point.name}' ({point.value}) is installed but cannot be imported: {error}",
            fix="Reinstall its package or remove it with pip uninstall",
        ) from error
    if not isinstance(info, MethodInfo):
        raise UsageError(
            f"entry point '{point.name}' ({point.value}) is a {type(info).__name__}", expected="a vos_core.contract.MethodInfo"
        )
    if info.name != point.name:
        raise UsageError(f"entry point '{point.name}' ({point.value}) holds a method called '{info.name}'", expected="one name")
    return info
