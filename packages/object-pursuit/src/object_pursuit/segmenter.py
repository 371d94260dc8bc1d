"""Object pursuit behind the project's contract: one code per object, fitted to its given mask; every frame is segmented alone.

There is no memory of past frames. What a clip shares between frames are the statistics of the norms, so frames are segmented in
batches: `adapt` gives access to the clip, and a batch is computed when its first frame is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from object_pursuit.annotated import AnnotatedFrames
from object_pursuit.clipfit import CodeFitter
from object_pursuit.config import PRESETS, SegmenterConfig
from object_pursuit.model import Hypernet
from object_pursuit.model.primary import run_stages
from object_pursuit.parts import load_parts, seeded_parts
from object_pursuit.samples import ObjectImages
from object_pursuit.weights import is_none
from object_pursuit.windows import join_windows, window_boxes, window_images
from vos_core.checks import check_frame_size, followed, given_masks, label_dtype
from vos_core.config import build_config
from vos_core.contract import BuildRequest, FrameReader, Precision
from vos_core.errors import UsageError
from vos_core.run.device import torch_dtype
from vos_core.types import BinaryMask, Frame, FrameResult, LabelMap, Prompt, RgbImage

FitCode = Callable[[ObjectImages, int], Tensor]
"""Returns the code `(z_dim,)` that fits an object's images best; the number counts the fits of a clip and seeds it."""
_UNKNOWN_LENGTH = 80
"""Frames that a clip is taken to have where nobody says; DAVIS clips have about as many."""


@dataclass(slots=True)
class _Object:
    """What is known of one object: masks given so far and the weights that its code generates."""

    frames: list[tuple[RgbImage, BinaryMask]]
    weights: dict[str, Tensor]


class ObjectPursuitSegmenter:
    """Follows objects through one clip; any of `prompts`' objects may enter or be given again at any frame.

    A further mask of a known object makes its code anew from all masks kept; earlier frames stay as they were.

    Args:
        hypernet: from codes to weights.
        encoder: as `frozen_encoder` returns it; None where it is generated.
        fit: makes a code; see `FitCode`.
        config: see `SegmenterConfig`.
        seed: of the crops that codes are fitted to.
        device: torch device string.
        precision: of the generated networks.
        probabilities: fill `FrameResult.probs`.
    """

    def __init__(
        self,
        hypernet: Hypernet,
        encoder: nn.Module | None,
        fit: FitCode,
        config: SegmenterConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
    ) -> None:
        self._dtype = torch_dtype(precision, device)
        self.config = config or SegmenterConfig()
        self.seed, self.precision, self.probabilities, self.fit = seed, precision, probabilities, fit
        self.device = torch.device(device)
        self.hypernet = hypernet
        self.encoder = encoder
        self.reset()

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects followed, in slot order."""
        return tuple(self._objects)

    def reset(self) -> None:
        """Forget the clip; keep weights."""
        self._objects: dict[int, _Object] = {}
        self._frame_size: tuple[int, int] | None = None
        self._reader: FrameReader | None = None
        self._prompted: tuple[int, ...] = ()
        self._early: dict[tuple[int, int], Tensor] = {}
        self._ahead: dict[int, Tensor] = {}
        self._fits = 0

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Fit the code of every object to its first mask, and keep the way to frames ahead.

        Raises:
            UsageError: no prompt, or one without a mask.
            MaskError: a mask of another size than its frame.
        """
        if not prompts:
            raise UsageError("a clip without prompts cannot be adapted to", fix="Give a mask with some frame")
        self.reset()
        self._reader, self._prompted = frames, tuple(sorted(prompts))
        done: set[int] = set()
        for index in self._prompted:
            frame = frames.read(index)
            for object_id, mask in given_masks(frame, prompts[index], taker="one-shot fitting").items():
                if object_id not in done:
                    done.add(object_id)
                    self._early[index, object_id] = self._code(object_id, [(frame.rgb, mask)])

    def know(self, codes: Mapping[int, Tensor], frames: FrameReader | None = None) -> None:
        """Begin a clip with objects whose codes are known, id -> code `(z_dim,)`: no mask is needed and nothing is fitted."""
        self.reset()
        self._reader = frames
        for object_id, code in codes.items():
            self._objects[object_id] = _Object([], self._generate(code))

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size; given masks are taken as they are.

        Raises:
            UsageError: no prompt has been given yet, or one without a mask.
            MaskError: a mask of another size than the frame.
            FrameError: a frame of another size than the first one.
        """
        size = (frame.rgb.shape[0], frame.rgb.shape[1])
        if self._frame_size is None and not prompts and not self._objects:
            raise UsageError(f"frame {frame.name} comes before any mask", fix="Give a mask with the first frame")
        if self._frame_size is not None:
            check_frame_size(frame, self._frame_size)
        given = given_masks(frame, prompts, taker="one-shot fitting")
        self._frame_size = size
        for object_id, mask in given.items():
            self._learn(frame, object_id, mask)
        if not self._objects:  # all were removed
            return FrameResult(labels=np.zeros(size, np.uint8), ids=())
        return self._result(self._logits(frame), given)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects.

        Raises:
            UsageError: an id that is not followed; then nothing is forgotten.
        """
        wanted = followed(ids, self.ids)
        for object_id in wanted:
            del self._objects[object_id]
        self._ahead.clear()

    def state_bytes(self) -> int:
        """Return the bytes held for the current clip: generated weights, annotated frames, frames segmented ahead."""
        held = [tensor for one in self._objects.values() for tensor in one.weights.values()]
        held += [*self._ahead.values(), *self._early.values()]
        pictures = sum(rgb.nbytes + mask.nbytes for one in self._objects.values() for rgb, mask in one.frames)
        return pictures + sum(tensor.numel() * tensor.element_size() for tensor in held)

    def _learn(self, frame: Frame, object_id: int, mask: BinaryMask) -> None:
        """Take in a given mask: fit the object's code and generate its weights."""
        before = self._objects[object_id].frames if object_id in self._objects else []
        frames = [*before, (frame.rgb, mask)][-self.config.shots :]
        early = self._early.pop((frame.index, object_id), None)
        code = early if early is not None and not before else self._code(object_id, frames)
        self._objects[object_id] = _Object(frames, self._generate(code))
        self._ahead.clear()

    @torch.inference_mode()
    def _generate(self, code: Tensor) -> dict[str, Tensor]:
        """Return the weights that a code stands for, in the precision that they are used in."""
        return {name: value.to(self._dtype) for name, value in self.hypernet(code.to(self.device)).items()}

    def _code(self, object_id: int, frames: list[tuple[RgbImage, BinaryMask]]) -> Tensor:
        self._fits += 1
        images = AnnotatedFrames(
            f"object {object_id}",
            frames,
            size=self.config.resize,
            length=len(self._reader) if self._reader is not None else _UNKNOWN_LENGTH,
            crop=self.config.crop,
            seed=self.seed + self._fits,
        )
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
            return self.fit(images, self._fits).detach()

    @torch.inference_mode()
    def _logits(self, frame: Frame) -> Tensor:
        """Return logits `(K, N, h, w)` of a frame's windows; computes the frames that follow with it."""
        if frame.index not in self._ahead:
            self._ahead.clear()
            batch = [frame, *self._following(frame.index)]
            boxes = window_boxes(frame.rgb.shape[0], frame.rgb.shape[1], self.config.window)
            views = torch.stack([window_images(one.rgb, boxes, self.config.resize) for one in batch]).to(self.device)
            logits = torch.stack([self._segment(views[:, place]) for place in range(len(boxes))], 1)
            self._ahead = {one.index: part.clone() for one, part in zip(batch, logits, strict=True)}
        return self._ahead.pop(frame.index)

    def _following(self, index: int) -> list[Frame]:
        """Return the frames after `index` that belong to its batch: none beyond the next given mask."""
        if self._reader is None:
            return []
        stop = min((place for place in self._prompted if place > index), default=len(self._reader))
        return [self._reader.read(k) for k in range(index + 1, min(stop, index + self.config.frames_at_once))]

    def _segment(self, images: Tensor) -> Tensor:
        """Return logits `(B, N, h, w)` of images `(B, 3, h, w)` for all objects, with the statistics of this batch."""
        dtype = self._dtype
        images = images.contiguous(memory_format=torch.channels_last)
        objects = list(self._objects.values())
        parts = []
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            encoder: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
            if self.encoder is not None:
                features = self.encoder(images)
                encoder = lambda _: features  # noqa: E731 - the same for every group of codes
            for first in range(0, len(objects), self.config.objects_at_once):
                group = objects[first : first + self.config.objects_at_once]
                weights = group[0].weights
                if len(group) > 1:
                    weights = {name: torch.stack([one.weights[name] for one in group]) for name in weights}
                parts.append(run_stages(images, weights, encoder, dropout=False).logits.float())
        return torch.cat(parts, 1)

    def _result(self, windows: Tensor, given: Mapping[int, BinaryMask]) -> FrameResult:
        assert self._frame_size is not None
        boxes = window_boxes(*self._frame_size, self.config.window)
        with torch.inference_mode():
            logits = join_windows(windows, boxes, self._frame_size)
            scores = torch.cat((logits.new_zeros((1, *self._frame_size)), logits))
            slots = scores.argmax(0).cpu().numpy()
            probs = torch.softmax(scores, 0).cpu().numpy() if self.probabilities else None
        labels: LabelMap = np.array([0, *self.ids], label_dtype(self.ids))[slots]
        for object_id, mask in given.items():  # what the user drew is not to be guessed
            labels[(labels == object_id) & ~mask] = 0
        for object_id, mask in given.items():
            labels[mask] = object_id
            if probs is not None:
                probs[:, mask] = 0
                probs[1 + self.ids.index(object_id), mask] = 1
        return FrameResult(labels=labels, ids=self.ids, probs=probs)


def frozen_encoder(encoder: nn.Module, norm: str) -> nn.Module:
    """Return a copy whose norms use the statistics of the batch, or those stored, and never change the stored ones."""
    frozen = copy.deepcopy(encoder).requires_grad_(False).train(norm == "batch")
    for module in frozen.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    return frozen


def build_segmenter(request: BuildRequest) -> ObjectPursuitSegmenter:
    """Return the segmenter that a request describes; see `object_pursuit.build`.

    Raises:
        ConfigError: an option that the method has not.
        UsageError: an unknown variant, one that the weights do not have, or a path that does not exist.
        WeightsError: weights that cannot be read or do not fit.
    """
    config = build_config(SegmenterConfig, request.options)
    default = next(iter(PRESETS))
    variant = request.variant or default
    if variant not in PRESETS:
        raise UsageError(f"there is no variant '{variant}'", expected=f"one of: {', '.join(PRESETS)}")
    codes, backbone = (None if is_none(path) else Path(str(path)) for path in (config.bases, config.backbone))
    if request.weights is None:
        parts = seeded_parts(PRESETS[variant], seed=request.seed)
    else:
        parts = load_parts(request.weights, codes=codes, backbone=backbone)
        if variant != default and parts.hypernet.table != PRESETS[variant].table:  # nobody who names none means the default
            raise UsageError(f"{request.weights} is no network of variant '{variant}'", fix="Leave out --variant")
    device = torch.device(request.device)
    encoder = None if parts.encoder is None else frozen_encoder(parts.encoder, config.encoder_norm).to(device)
    parts = replace(
        parts, hypernet=parts.hypernet.to(device).requires_grad_(False), encoder=encoder, codes=parts.codes.to(device)
    )
    fitter = CodeFitter(parts, config, seed=request.seed, device=request.device, precision=request.precision)
    return ObjectPursuitSegmenter(
        parts.hypernet,
        encoder,
        fitter,
        config,
        seed=request.seed,
        device=request.device,
        precision=request.precision,
        probabilities=request.probabilities,
    )
