"""Interactive segmentation of videos: prompts on any frame, corrections, tracking both ways (spec section 3.2).

The calls are those that users of SAM 2 know; masks come out as logits at the size of the video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from sam2_rcms.config import PredictorConfig
from sam2_rcms.engine import Engine
from sam2_rcms.frames import open_video
from sam2_rcms.memory import Clicks, ObjectMemory, Record
from sam2_rcms.model import NO_OBJECT, SAM2
from sam2_rcms.overlap import separate
from sam2_rcms.prompts import read_clicks, read_mask
from sam2_rcms.state import Keep, VideoState
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.io.frames import FrameSource, prefetch
from vos_core.types import RgbImage

FrameMasks = tuple[int, list[int], Tensor]
"""Frame index, object ids, and their logits float32 `(N, 1, H, W)` at the size of the video; above 0 = object."""


class VideoPredictor:
    """Segments videos with a network; all state of a video is in what `init_state` returns.

    Args:
        network: see `sam2_rcms.weights.load_network`.
        config: see `PredictorConfig`.
        device: torch device string.
        precision: fp32 is the parity path.
        batch_objects: compute objects together.
    """

    def __init__(
        self,
        network: SAM2,
        config: PredictorConfig | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_objects: bool = True,
    ) -> None:
        self.engine = Engine(network, config, device=device, precision=precision, batch_objects=batch_objects)

    @property
    def config(self) -> PredictorConfig:
        """How videos are read and remembered."""
        return self.engine.config

    def init_state(
        self,
        video_path: Path | str | FrameSource | Sequence[RgbImage] | npt.NDArray[np.uint8],
        *,
        keep: Keep = "all",
        offload_video_to_cpu: bool = True,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = True,
    ) -> VideoState:
        """Return the state of a video without objects.

        Args:
            video_path: a folder of frames, a video file, arrays uint8 `(H, W, 3)`, or a source of frames. Frames are read when
                they are needed, never all at once.
            keep: `all` remembers every frame, as SAM 2 does, about 1 MB a frame and object at 1024 pixels; `window` only what
                forward tracking reads, so that memory does not grow.
            offload_video_to_cpu: known from SAM 2; always so here: frames never stay on the device.
            offload_state_to_cpu: keep records on the CPU, so that a GPU's memory does not grow with the video; takes longer.
            async_loading_frames: known from SAM 2; always so here: frames are read ahead while others are computed.

        Raises:
            FrameError: the video cannot be read.
            UsageError: an option of SAM 2 that has no counterpart.
        """
        if keep not in ("all", "window"):
            raise UsageError(f"keep='{keep}'", expected="all or window")
        if not (offload_video_to_cpu and async_loading_frames):
            raise UsageError(
                "offload_video_to_cpu=False and async_loading_frames=False do not exist here",
                expected="the defaults: frames are read when they are needed",
            )
        frames = open_video(video_path)
        return VideoState(self.engine, frames, length=len(frames), size=frames.size, keep=keep, offload=offload_state_to_cpu)

    def stream_state(self, size: tuple[int, int], *, length: int | None = None) -> VideoState:
        """Return the state of a video whose frames are handed in by `VideoState.feed`, in time order.

        Args:
            size: (height, width) of its frames.
            length: number of frames, if known; only videos of less than 16 frames depend on it.
        """
        return VideoState(self.engine, None, length=length, size=size, keep="window")

    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: int, mask: npt.NDArray[np.bool_] | Tensor
    ) -> FrameMasks:
        """Return the masks of all objects on a frame after one of them was given a mask there.

        Args:
            inference_state: the video.
            frame_idx: the frame.
            obj_id: the object; a new id begins a new object, also after tracking has begun.
            mask: `(H, W)`, any size, nonzero = object.

        Raises:
            UsageError: no such frame.
            MaskError: not a mask of one object.
        """
        self._check_owner(inference_state)
        frame_idx = inference_state.check_frame(frame_idx)
        given = read_mask(mask, obj_id)
        (record,) = self.engine.take_masks(inference_state.image(frame_idx), given.unsqueeze(0))
        memory = inference_state.object(obj_id)
        memory.clicks.pop(frame_idx, None)
        memory.masks.add(frame_idx)
        return self._take(inference_state, memory, frame_idx, record)

    def add_new_points_or_box(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: int,
        points: npt.ArrayLike | Tensor | None = None,
        labels: npt.ArrayLike | Tensor | None = None,
        *,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: npt.ArrayLike | Tensor | None = None,
    ) -> FrameMasks:
        """Return the masks of all objects on a frame after one of them was clicked on or boxed there.

        Args:
            inference_state: the video.
            frame_idx: the frame.
            obj_id: the object; a new id begins a new object.
            points: `(P, 2)`, x then y, in pixels of the video; inside the frame.
            labels: `(P,)`, 1 = on the object, 0 = not on it.
            clear_old_points: forget earlier clicks on this frame; without it new ones are added to them.
            normalize_coords: False = coordinates are 0-1 already.
            box: x0, y0, x1, y1; may reach beyond the frame; only together with `clear_old_points`.

        Raises:
            UsageError: no such frame, or clicks that do not make sense.
        """
        self._check_owner(inference_state)
        frame_idx = inference_state.check_frame(frame_idx)
        height, width = inference_state.size
        extent = [width, height] if normalize_coords else [1, 1]
        clicks = read_clicks(points, labels, box, extent=extent, clear_old_points=clear_old_points)
        scale = np.asarray(extent, np.float32)
        clicks.points = clicks.points / scale * np.float32(self.config.image_size)
        image = inference_state.image(frame_idx)
        memory = inference_state.object(obj_id)
        old = memory.clicks.get(frame_idx)
        if old is not None and not clear_old_points:
            clicks = Clicks(np.concatenate((old.points, clicks.points)), np.concatenate((old.labels, clicks.labels)))
        memory.clicks[frame_idx] = clicks
        memory.masks.discard(frame_idx)
        seen = frame_idx in memory.visited
        record = self.engine.take_clicks(
            image,
            clicks,
            before=memory.latest(frame_idx, cond=self._is_cond(memory, frame_idx)),
            memory=memory if seen else None,
            frame=frame_idx,
            rules=inference_state.rules,
            reverse=memory.visited.get(frame_idx, False),
        )
        return self._take(inference_state, memory, frame_idx, record)

    def propagate_in_video_preflight(self, inference_state: VideoState) -> None:
        """Put the prompts given since the last propagation into memory; every propagation begins with it.

        Raises:
            UsageError: no object, or one without a conditioning frame.
        """
        self._check_owner(inference_state)
        if not inference_state.objects:
            raise UsageError("there is no object to propagate", fix="Give a mask, clicks or a box first")
        waiting: dict[int, list[Record]] = {}
        for memory in inference_state.objects.values():
            for store in (memory.new_tracked, memory.new_cond):
                for frame, record in store.items():
                    if record.memory is None:
                        waiting.setdefault(frame, []).append(record)
        for frame, records in waiting.items():
            self.engine.remember(inference_state.image(frame), records)
            inference_state.stored(records)
        for obj_id, memory in inference_state.objects.items():
            self._settle(memory)
            if not memory.cond:
                raise UsageError(
                    f"object {obj_id} has no prompt left on any frame", fix="Give it a mask, clicks or a box, or remove it"
                )

    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        *,
        reverse: bool = False,
    ) -> Iterator[FrameMasks]:
        """Yield the masks of all objects frame by frame.

        Args:
            inference_state: the video.
            start_frame_idx: None = the earliest conditioning frame of any object.
            max_frame_num_to_track: how many frames to go beyond the start; None = to the end.
            reverse: towards the first frame.

        Raises:
            UsageError: nothing to propagate, or backwards in a state that remembers only a window.
        """
        if reverse and inference_state.keep == "window":
            raise UsageError("a window state cannot track backwards", fix='Make the state with keep="all"')
        self.propagate_in_video_preflight(inference_state)
        assert inference_state.length is not None
        if start_frame_idx is None:
            start_frame_idx = min(index for memory in inference_state.objects.values() for index in memory.cond)
        start_frame_idx = inference_state.check_frame(start_frame_idx)
        reach = inference_state.length if max_frame_num_to_track is None else max_frame_num_to_track
        if not reverse:
            stop = min(start_frame_idx + reach, inference_state.length - 1)
            assert inference_state.frames is not None
            with closing(prefetch(inference_state.frames, start=start_frame_idx, depth=2)) as frames:
                for frame in frames:
                    if frame.index > stop:
                        break
                    inference_state.feed(frame.index, frame.rgb)
                    yield self.track_frame(inference_state, frame.index)
            return
        if start_frame_idx > 0:
            for index in range(start_frame_idx, max(start_frame_idx - reach, 0) - 1, -1):
                yield self.track_frame(inference_state, index, reverse=True)

    def track_frame(
        self, inference_state: VideoState, frame_idx: int, *, obj_ids: Sequence[int] | None = None, reverse: bool = False
    ) -> FrameMasks:
        """Return the masks of objects on the next frame: what a prompt said, else what tracking finds.

        Args:
            inference_state: the video, all prompts in memory (`propagate_in_video_preflight`).
            frame_idx: the frame.
            obj_ids: which objects; None = all.
            reverse: tracking goes backwards.

        Raises:
            UsageError: no such frame or object.
        """
        self._check_owner(inference_state)
        frame_idx = inference_state.frame_number(frame_idx)
        ids = inference_state.obj_ids if obj_ids is None else list(obj_ids)
        memories = [inference_state.known(obj_id) for obj_id in ids]
        records = [memory.cond.get(frame_idx) for memory in memories]
        todo = [place for place, record in enumerate(records) if record is None]
        if todo:
            some = [memories[place] for place in todo]
            made = self.engine.track(inference_state.image(frame_idx), some, frame_idx, inference_state.rules, reverse=reverse)
            inference_state.stored(made)
            for place, record in zip(todo, made, strict=True):
                records[place] = record
                memories[place].tracked[frame_idx] = record
                self._observe(memories[place], frame_idx, record, reverse=reverse)
        for memory in memories:
            memory.visited[frame_idx] = reverse
            if inference_state.keep == "window":
                memory.shrink(frame_idx, inference_state.rules)
        inference_state.passed = max(inference_state.passed, frame_idx)
        return frame_idx, ids, self._masks(inference_state, [record.low for record in records if record is not None])

    def masks_on(self, inference_state: VideoState, frame_idx: int) -> FrameMasks:
        """Return the masks of all objects on a frame as they are remembered, nothing tracked; absent ones score -1024.

        Raises:
            UsageError: no such frame.
        """
        self._check_owner(inference_state)
        frame_idx = inference_state.frame_number(frame_idx)
        return self._all_masks(inference_state, frame_idx, cond=True)

    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: int, *, need_output: bool = True
    ) -> FrameMasks | None:
        """Return the masks of all objects on a frame after one object's prompts there were taken back; None if not wanted.

        What tracking or an earlier prompt had put into memory stays there, as a tracked frame.

        Raises:
            UsageError: no such frame or object.
        """
        self._check_owner(inference_state)
        frame_idx = inference_state.frame_number(frame_idx)
        memory = inference_state.known(obj_id)
        memory.clicks.pop(frame_idx, None)
        memory.masks.discard(frame_idx)
        memory.new_cond.pop(frame_idx, None)
        memory.new_tracked.pop(frame_idx, None)
        record = memory.cond.pop(frame_idx, None)
        if record is not None:
            memory.tracked[frame_idx] = record
            memory.rcms.restore(frame_idx, record.quality)
            # A later prompt here is an initial one again.
            memory.visited.pop(frame_idx, None)
        return (
            self._all_masks(inference_state, frame_idx, cond=_any_new_cond(inference_state, frame_idx)) if need_output else None
        )

    def remove_object(
        self, inference_state: VideoState, obj_id: int, *, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, Tensor]]]:
        """Return the remaining ids and, for each frame where the object had prompts, the masks of the remaining objects.

        Raises:
            UsageError: with `strict`, no such object.
        """
        self._check_owner(inference_state)
        if obj_id not in inference_state.objects and not strict:
            return inference_state.obj_ids, []
        memory = inference_state.known(obj_id)
        if len(inference_state.objects) == 1:
            self.reset_state(inference_state)
            return [], []
        prompted = sorted({*memory.clicks, *memory.masks})
        del inference_state.objects[obj_id]
        if not need_output:
            return inference_state.obj_ids, []
        changed = [self._all_masks(inference_state, frame, cond=_any_new_cond(inference_state, frame)) for frame in prompted]
        return inference_state.obj_ids, [(frame, logits) for frame, _, logits in changed]

    def reset_state(self, inference_state: VideoState) -> None:
        """Forget all objects, prompts and memories; the video stays open."""
        inference_state.reset()

    def _check_owner(self, state: VideoState) -> None:
        if state.engine is not self.engine:
            raise UsageError("this is the state of a video of another predictor", fix="Make one with this predictor's init_state")

    def _is_cond(self, memory: ObjectMemory, frame: int) -> bool:
        """Return whether a prompt on `frame` makes it a conditioning frame."""
        return frame not in memory.visited or self.config.add_all_frames_to_correct_as_cond

    def _take(self, state: VideoState, memory: ObjectMemory, frame: int, record: Record) -> FrameMasks:
        cond = self._is_cond(memory, frame)
        (memory.new_cond if cond else memory.new_tracked)[frame] = record
        return self._all_masks(state, frame, cond=cond)

    def _settle(self, memory: ObjectMemory) -> None:
        for new, store in ((memory.new_tracked, memory.tracked), (memory.new_cond, memory.cond)):
            for frame, record in new.items():
                store[frame] = record
                if store is memory.tracked:
                    memory.rcms.restore(frame, record.quality)
                if self.config.clear_non_cond_mem_around_input:
                    reach = self.config.num_maskmem * self.config.memory_temporal_stride_for_eval
                    around = [index for index in memory.tracked if index != frame and abs(index - frame) <= reach]
                    for index in around:
                        del memory.tracked[index]
                    memory.rcms.forget(around)
            new.clear()
        for frame in memory.cond:
            memory.tracked.pop(frame, None)
        memory.rcms.forget(memory.cond)

    def _observe(self, memory: ObjectMemory, frame: int, record: Record, *, reverse: bool) -> None:
        if not self.config.rcms_strict_reference:
            first = max(memory.cond) if reverse else min(memory.cond)
            if (frame > first) if reverse else (frame < first):
                return  # not yet prompted: its absence says nothing
        backwards = reverse and not self.config.rcms_strict_reference
        memory.promote(memory.rcms.note(frame, score=record.score, quality=record.quality, reverse=backwards))

    def _all_masks(self, state: VideoState, frame: int, *, cond: bool) -> FrameMasks:
        records = [memory.latest(frame, cond=cond) for memory in state.objects.values()]
        return (
            frame,
            state.obj_ids,
            self._masks(state, [None if record is None else record.low for record in records]),
        )

    def _masks(self, state: VideoState, lows: Sequence[Tensor | None]) -> Tensor:
        """Return logits `(N, 1, H, W)` at the size of the video of low-resolution ones `(1, S / 4, S / 4)`."""
        side = self.config.image_size // 4
        with torch.inference_mode():
            nothing = torch.full((1, side, side), NO_OBJECT, device=self.engine.device)
            low = torch.stack([nothing if one is None else one.to(nothing) for one in lows])
            logits = F.interpolate(low, size=state.size, mode="bilinear", align_corners=False)
            return separate(logits) if self.config.non_overlap_masks else logits


def _any_new_cond(state: VideoState, frame: int) -> bool:
    return any(frame in memory.new_cond for memory in state.objects.values())
