"""AOT, DeAOT and RMem behind the project's contract: frames in, label maps with original ids out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rmem_deaot.config import SLOTS, SegmenterConfig, Variant
from rmem_deaot.model.fuse import fuse
from rmem_deaot.model.network import AOTNetwork
from rmem_deaot.prepare import RATIO, View, input_size
from rmem_deaot.readout import first_best, label_map, probabilities
from rmem_deaot.tracker import Tracker, TrackerOptions
from vos_core.checks import check_frame_size, followed, given_masks, label_dtype
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.ops.resize import ResizePolicy, resize
from vos_core.run.device import torch_device, torch_dtype
from vos_core.types import Frame, FrameResult, Prompt


class RMemSegmenter:
    """Follows objects through one clip; any of `prompts`' objects may enter or be corrected at any frame.

    Args:
        network: weights; stays as it is, a fused copy computes.
        variant: what the network is and the memory it was published with.
        config: see `SegmenterConfig`.
        device: torch device string.
        precision: fp32 is the parity path.
        probabilities: fill `FrameResult.probs`.

    Raises:
        UsageError: a precision or temporal position that the device or the network has not, or the length of a restricted bank
            where the bank is not restricted.
    """

    def __init__(
        self,
        network: AOTNetwork,
        variant: Variant,
        config: SegmenterConfig | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
    ) -> None:
        self._dtype = torch_dtype(precision, device)
        self.variant, self.config = variant, config or SegmenterConfig()
        if self.config.tpe and not network.config.temporal_position:
            raise UsageError("tpe=true, but this network has no temporal positions", fix="Use RMem weights or leave out tpe")
        if not self._restricted and (self.config.latter_mem_len is not None or self.config.former_mem_len > 1):
            raise UsageError(
                "former_mem_len or latter_mem_len was given, but the bank of this variant is not restricted",
                fix="Add --restrict-memory, or leave it out",
            )
        self.device, self.probabilities = torch_device(device), probabilities
        self._network = fuse(network, device=self.device, dtype=self._dtype)
        self._length: int | None = None
        self.reset()

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects followed, in slot order."""
        return tuple(object_id for object_id in self._slots if object_id is not None)

    @property
    def bank_frames(self) -> tuple[int, ...]:
        """Frames in the long-term bank of the first group and view, oldest first."""
        banks = self._trackers[0].banks if self._trackers else {}
        return next(iter(banks.values())).frames if banks else ()

    @property
    def gap(self) -> int:
        """Least frames between two long-term frames in the current clip."""
        config = self.config
        gap = self.variant.gap if config.lt_gap is None else config.lt_gap
        if self._length is None or not config.memory_gap_cap:
            return gap
        return max(round(self._length / config.memory_gap_cap), gap)

    def expect(self, frames: int) -> None:
        """Take the number of frames of the coming clip, by which the gap of the long-term memory grows."""
        self._length = frames

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size.

        Raises:
            UsageError: no prompt has been given yet, or one without a mask.
            MaskError: a mask of another size than the frame.
            FrameError: a frame of another size than the first one.
        """
        size = (frame.rgb.shape[0], frame.rgb.shape[1])
        if not self._views and not prompts:
            raise UsageError(f"frame {frame.name} comes before any mask", fix="Give a mask with the first frame")
        if self._views:
            check_frame_size(frame, self._frame_size)
        given = given_masks(frame, sorted(prompts, key=lambda prompt: prompt.object_id), taker="AOT")
        if not self._views:
            self._open(size)
        if not self.ids and not given:  # everything was removed
            return self._result(torch.zeros(size, dtype=torch.int32), None)
        if not self.ids:
            return self._start(frame, given)
        probs, labels = self._predict(frame, labelled=bool(given))
        if given:
            labels, probs = self._take(given, labels)
        return self._result(labels, probs)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects.

        Raises:
            UsageError: an id that is not followed; then nothing is forgotten.
        """
        wanted = followed(ids, self.ids)
        numbers = [self._slots.index(object_id) + 1 for object_id in wanted]
        for number in numbers:
            self._slots[number - 1] = None
        for tracker in self._trackers:
            tracker.remove(numbers)

    def reset(self) -> None:
        """Forget the clip; keep weights."""
        self._views: list[View] = []
        self._trackers: list[Tracker] = []
        self._slots: list[int | None] = []
        self._own: list[Tensor] = []
        self._frame_size = self._output_size = (0, 0)
        self._length = None

    def state_bytes(self) -> int:
        """Return the bytes held for the current clip."""
        return sum(tracker.state_bytes() for tracker in self._trackers)

    @property
    def _restricted(self) -> bool:
        return self.variant.restrict if self.config.restrict_memory is None else self.config.restrict_memory

    def _open(self, size: tuple[int, int]) -> None:
        config = self.config
        self._frame_size = self._output_size = size
        if config.output_height is not None:
            self._output_size = (config.output_height, math.ceil(size[1] * config.output_height / size[0]))
        for scale in config.ms:
            sides = input_size(
                *size,
                scale=scale,
                max_short=config.max_resolution if config.ms != (1.0,) else None,
                max_long=config.max_resolution * RATIO,
                align_corners=self._network.config.align_corners,
            )
            self._views += [View(sides, flipped, self.device) for flipped in ((False, True) if config.flip else (False,))]
        self._trackers = [Tracker(self._network, self._options(), dtype=self._dtype) for _ in self._views]

    def _options(self) -> TrackerOptions:
        config, variant, restrict = self.config, self.variant, self._restricted
        latter = config.latter_mem_len or config.default_latter or variant.latter
        return TrackerOptions(
            gap=self.gap,
            former=config.former_mem_len if restrict else 1,
            latter=latter if restrict else config.unrestricted_frames - 1,
            rule="relevance" if restrict and config.restrict_by_attention else "oldest",
            lazy_statistics=variant.lazy_statistics if config.lazy_statistics is None else config.lazy_statistics,
            st_skip=config.st_skip,
            temporal_position=self._network.config.temporal_position if config.tpe is None else config.tpe,
            all_channels=variant.all_channels if config.all_channels is None else config.all_channels,
        )

    def _start(self, frame: Frame, given: Mapping[int, npt.NDArray[np.bool_]]) -> FrameResult:
        self._slots = list(given)
        labels = self._numbered(given)
        for view, tracker in zip(self._views, self._trackers, strict=True):
            tracker.start(view.image(frame.rgb), view.labels(labels), len(self._slots))
        return self._result(labels, None)

    def _predict(self, frame: Frame, *, labelled: bool) -> tuple[Tensor | None, Tensor]:
        """Return probabilities, if anybody wants them, and label map at the output's size; the masks go into the memories."""
        total: Tensor | None = None
        own: list[Tensor] = []
        soft_masks: list[Tensor] = []
        soft = self.probabilities or len(self._views) > 1 or self.config.use_prev_prob
        for view, tracker in zip(self._views, self._trackers, strict=True):
            logits = tracker.predict(view.image(frame.rgb), labelled=labelled)
            if not soft:
                own.append(_unmirrored(self._label_map(tracker, logits), view))
                continue
            probs = _unmirrored(self._probabilities(tracker, logits), view)
            total = probs if total is None else total + probs
            if len(self._views) > 1 and not self.config.merged_memory:
                own.append(first_best(probs))
                if self.config.use_prev_prob:
                    soft_masks.append(probs)
        if total is not None:
            total = total / len(self._views)
        labels = own[0] if total is None else first_best(total)
        self._own = own if len(own) == len(self._views) else [labels] * len(self._views)
        if not labelled:
            self._remember(total if self.config.use_prev_prob else None, soft_masks)
        return total, labels

    def _remember(self, probs: Tensor | None, soft_masks: Sequence[Tensor]) -> None:
        """Write the frame's own masks into every view's memory: label maps, or probabilities where `probs` are given.

        Args:
            probs: of the views together, for memories that hold soft masks.
            soft_masks: of each view, where each remembers its own.
        """
        if probs is None:
            for view, tracker, label in zip(self._views, self._trackers, self._own, strict=True):
                tracker.remember(view.labels(label))
            return
        align_corners = self._network.config.align_corners
        for view, tracker, masks in zip(self._views, self._trackers, soft_masks or [probs] * len(self._views), strict=True):
            tracker.remember_soft(view.soft_masks(masks, align_corners=align_corners))

    def _probabilities(self, tracker: Tracker, logits: Tensor) -> Tensor:
        align_corners, channels = self._network.config.align_corners, self._channels(tracker)
        return probabilities(logits, tracker.groups, self._output_size, channels=channels, align_corners=align_corners)

    def _label_map(self, tracker: Tracker, logits: Tensor) -> Tensor:
        align_corners, channels = self._network.config.align_corners, self._channels(tracker)
        return label_map(logits, tracker.groups, self._output_size, channels=channels, align_corners=align_corners)

    def _channels(self, tracker: Tracker) -> int:
        if tracker.options.all_channels:
            return 1 + SLOTS * (max(tracker.groups) + 1)
        return 1 + len(self._slots)

    def _take(self, given: Mapping[int, npt.NDArray[np.bool_]], labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the label map with the given masks in it; every view's frame becomes a reference with its own one."""
        corrected = [self._slots.index(object_id) + 1 for object_id in given if object_id in self._slots]
        self._slots += [object_id for object_id in given if object_id not in self._slots]
        new = resize(self._numbered(given), self._output_size, ResizePolicy.TORCH_NEAREST)
        for view, tracker, label in zip(self._views, self._trackers, self._own, strict=True):
            tracker.refer(view.labels(_merged(label, new, corrected)), len(self._slots))
        return _merged(labels, new, corrected), None

    def _numbered(self, given: Mapping[int, npt.NDArray[np.bool_]]) -> Tensor:
        """Return slot numbers, int32 `(H, W)`, of given masks; later ones lie on top."""
        labels = torch.zeros(self._frame_size, dtype=torch.int32)
        for object_id, mask in given.items():
            labels.masked_fill_(torch.from_numpy(np.ascontiguousarray(mask)), self._slots.index(object_id) + 1)
        return labels.to(self.device)

    def _result(self, labels: Tensor, probs: Tensor | None) -> FrameResult:
        """Return original ids at the frame's size; `probs` of None are certain."""
        labels = resize(labels, self._frame_size, ResizePolicy.TORCH_NEAREST)
        # Where all ten identities compete, one that no object has may win: background.
        table = np.zeros(1 + max(len(self._slots), int(labels.max())), label_dtype(self.ids))
        table[1 : 1 + len(self._slots)] = [object_id or 0 for object_id in self._slots]
        result = None
        if self.probabilities:
            numbers = [number for number, object_id in enumerate(self._slots, start=1) if object_id is not None]
            if probs is None:
                objects = torch.stack([labels == number for number in numbers]) if numbers else labels.new_zeros(0, *labels.shape)
                objects = objects.float()
            else:
                objects = resize(probs[numbers], self._frame_size, ResizePolicy.TORCH_BILINEAR)
            result = torch.cat((1 - objects.sum(0, keepdim=True).clamp(max=1), objects)).cpu().numpy()
        return FrameResult(labels=table[labels.cpu().numpy()], ids=self.ids, probs=result)


def _merged(labels: Tensor, given: Tensor, corrected: Sequence[int]) -> Tensor:
    # A corrected object is where it was given to be and nowhere else.
    for number in corrected:
        labels = labels.masked_fill(labels == number, 0)
    return torch.where(given == 0, labels, given)


def _unmirrored(maps: Tensor, view: View) -> Tensor:
    return maps.flip(-1) if view.flipped else maps
