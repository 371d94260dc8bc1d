"""SAM 2.1 with RCMS behind the project's contract: frames in, label maps with original ids out, memory bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sam2_rcms.config import POSTPROCESSING, SegmenterConfig
from sam2_rcms.memory import Record
from sam2_rcms.model import SAM2
from sam2_rcms.predictor import VideoPredictor
from sam2_rcms.state import VideoState
from vos_core.checks import check_prompts, followed, label_dtype
from vos_core.contract import FrameReader, Precision
from vos_core.errors import FrameError, UsageError
from vos_core.types import Frame, FrameResult, LabelMap, Prompt


class SAM2Segmenter:
    """Follows objects through one clip; each from the first frame on which it is prompted.

    A mask is taken as it is and becomes a conditioning frame. Clicks and boxes on a new object predict its mask; on a known one
    they correct what tracking found on the same frame.

    `adapt` is no training: it tells the length of the clip, on which clips of less than 16 frames depend, and shows masks of
    later frames, which condition the earlier ones too. Without it the segmenter works on a stream of unknown length.

    Args:
        network: weights; stays as it is.
        config: see `SegmenterConfig`.
        device: torch device string.
        precision: fp32 is the parity path.
        probabilities: fill `FrameResult.probs`.
    """

    def __init__(
        self,
        network: SAM2,
        config: SegmenterConfig | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
    ) -> None:
        config = config or SegmenterConfig()
        if config.apply_postprocessing:
            config = config.model_copy(update=dict(POSTPROCESSING))
        self.config, self.probabilities = config, probabilities
        self.predictor = VideoPredictor(network, config, device=device, precision=precision, batch_objects=config.batch_objects)
        self._forget()

    def _forget(self) -> None:
        self._state: VideoState | None = None
        self._length: int | None = None
        self._time = -1
        self._later: dict[int, dict[int, Record]] = {}

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Take note of the length of the clip, and remember masks of objects that come back to be prompted on later frames.

        Raises:
            MaskError: a mask of another size than its frame.
        """
        self._forget()
        self._length = len(frames)
        known: set[int] = set()
        for index in sorted(prompts):
            again = [prompt for prompt in prompts[index] if prompt.object_id in known and prompt.mask is not None]
            known.update(prompt.object_id for prompt in prompts[index])
            if not again:
                continue
            frame = frames.read(index)
            check_prompts(frame, again)
            engine = self.predictor.engine
            image = engine.encode(frame.rgb)
            records = engine.take_masks(image, torch.stack([torch.from_numpy(_mask(prompt)) for prompt in again]))
            engine.remember(image, records)
            for prompt, record in zip(again, records, strict=True):
                self._later.setdefault(prompt.object_id, {})[index] = record

    @property
    def ids(self) -> tuple[int, ...]:
        """Objects followed, in slot order."""
        return () if self._state is None else tuple(self._state.objects)

    @property
    def state(self) -> VideoState:
        """What is remembered of the clip."""
        if self._state is None:
            raise UsageError("no frame has come yet")
        return self._state

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size.

        Raises:
            UsageError: no prompt has been given yet, or one without mask, clicks and box.
            MaskError: a mask of another size than the frame.
            FrameError: a frame of another size than the first one, or frames out of order.
        """
        height, width = frame.rgb.shape[:2]
        if self._state is None:
            if not prompts:
                raise UsageError(f"frame {frame.name} comes before any prompt", fix="Give a mask, clicks or a box with it")
            self._state = self.predictor.stream_state((height, width), length=self._length)
            self._time = frame.index - 1
        state = self._state
        if frame.index != self._time + 1:
            raise FrameError(f"frame {frame.name} has number {frame.index}", expected=f"{self._time + 1}: frames in time order")
        if self._length is not None and frame.index >= self._length:
            # A container's length was too short.
            state.length, state.rules = None, self.predictor.stream_state(state.size).rules
        check_prompts(frame, prompts)
        for prompt in prompts:
            if prompt.mask is None and prompt.points is None and prompt.box is None:
                what = f"object {prompt.object_id} of frame {frame.name}"
                raise UsageError(f"{what} has no prompt", expected="a mask, points with labels, or a box")
        state.feed(frame.index, frame.rgb)
        self._time = frame.index
        corrected = self._prompt(state, frame.index, prompts)
        if not state.objects:
            return self._result(state, (height, width), torch.zeros(0, 1, height, width))
        self.predictor.propagate_in_video_preflight(state)
        # What a correction said stands; tracking these once more would lose it.
        todo = [object_id for object_id in state.objects if object_id not in corrected]
        if todo:
            self.predictor.track_frame(state, frame.index, obj_ids=todo)
        return self._result(state, (height, width), self.predictor.masks_on(state, frame.index)[2])

    def _prompt(self, state: VideoState, index: int, prompts: Sequence[Prompt]) -> list[int]:
        """Take the prompts of frame `index`; return the objects that were tracked on it and then corrected."""
        predictor = self.predictor
        corrected = [p.object_id for p in prompts if p.mask is None and p.object_id in state.objects]
        if corrected:
            # Tracked first, so that clicks correct what was found; the others are tracked with all below.
            predictor.propagate_in_video_preflight(state)
            predictor.track_frame(state, index, obj_ids=list(dict.fromkeys(corrected)))
        masks = [prompt for prompt in prompts if prompt.mask is not None]
        todo = [prompt for prompt in masks if index not in self._later.get(prompt.object_id, {})]
        if todo:
            given = torch.stack([torch.from_numpy(_mask(prompt)) for prompt in todo])
            records = predictor.engine.take_masks(state.image(index), given)
            for prompt, record in zip(todo, records, strict=True):
                memory = state.object(prompt.object_id)
                memory.masks.add(index)
                memory.new_cond[index] = record
                # Masks of later frames condition this one, too.
                memory.new_cond.update(self._later.get(prompt.object_id, {}))
        for prompt in prompts:
            if prompt.mask is None:
                predictor.add_new_points_or_box(
                    state, index, prompt.object_id, prompt.points, prompt.point_labels, box=prompt.box
                )
        return corrected

    def _result(self, state: VideoState, size: tuple[int, int], logits: Tensor) -> FrameResult:
        above = (logits[:, 0] > self.config.score_thresh).cpu().numpy()
        ids = tuple(state.objects)
        labels: LabelMap = np.zeros(size, label_dtype(ids))
        for place in sorted(range(len(ids)), key=lambda place: -ids[place]):
            labels[above[place]] = ids[place]  # the smallest id wins where masks overlap
        return FrameResult(
            labels=labels,
            ids=ids,
            probs=self._probs(logits) if self.probabilities else None,
            masks=None if self.config.non_overlap_masks else above,
        )

    def _probs(self, logits: Tensor) -> npt.NDArray[np.float32]:
        """Return `(N + 1, H, W)` that sum to 1: objects and, at the threshold, background compete by their logits."""
        background = torch.full_like(logits[:1, 0], self.config.score_thresh) if len(logits) else torch.zeros(logits.shape[1:])
        return torch.softmax(torch.cat((background, logits[:, 0])), 0).cpu().numpy()

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects.

        Raises:
            UsageError: an id that is not followed; then nothing is forgotten.
        """
        wanted = followed(ids, self.ids)
        for object_id in wanted:
            del self.state.objects[object_id]

    def reset(self) -> None:
        """Forget the clip; keep weights."""
        self._forget()

    def state_bytes(self) -> int:
        """Return the bytes held for the current clip."""
        later = sum(record.nbytes() for frames in self._later.values() for record in frames.values())
        return later + (0 if self._state is None else self._state.nbytes())


def _mask(prompt: Prompt) -> npt.NDArray[np.bool_]:
    assert prompt.mask is not None
    return np.ascontiguousarray(prompt.mask)
