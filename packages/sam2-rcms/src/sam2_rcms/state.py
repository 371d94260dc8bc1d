"""One video under way: its frames, its objects, and the features of the frames last looked at."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Iterable
from typing import Literal, SupportsIndex

from sam2_rcms.config import PredictorConfig
from sam2_rcms.engine import Engine
from sam2_rcms.memory import ObjectMemory, ReadRules, Record
from sam2_rcms.model import ImageFeatures
from sam2_rcms.rcms import RCMS
from vos_core.errors import FrameError, UsageError
from vos_core.io.frames import FrameSource
from vos_core.types import RgbImage

Keep = Literal["all", "window"]
"""`all`: every frame's record stays, for corrections and tracking backwards. `window`: only what forward tracking reads."""
CACHED_FRAMES = 2


class VideoState:
    """What `VideoPredictor.init_state` returns; belongs to the predictor that made it.

    Args:
        engine: computes.
        frames: the video, or None where frames are handed in one by one (`feed`).
        length: number of frames; None = not known.
        size: (height, width) of frames in pixels.
        keep: see `Keep`.
        offload: keep records on the CPU, wherever they are computed.
    """

    def __init__(
        self,
        engine: Engine,
        frames: FrameSource | None,
        *,
        length: int | None,
        size: tuple[int, int],
        keep: Keep,
        offload: bool = False,
    ) -> None:
        self.engine, self.frames, self.length, self.size, self.keep = engine, frames, length, size, keep
        self.offload = offload
        self.objects: dict[int, ObjectMemory] = {}
        self.passed = -1  # last frame that a `window` state has tracked
        self._features: OrderedDict[int, ImageFeatures] = OrderedDict()
        config = engine.config
        self.rules = ReadRules(
            spatial=config.num_maskmem,
            stride=config.memory_temporal_stride_for_eval,
            max_cond=config.max_cond_frames_in_attn,
            pointers=config.max_obj_ptrs_in_encoder,
            **({} if length is None else {"frames": length}),
        )

    def __repr__(self) -> str:
        height, width = self.size
        length = "unknown length" if self.length is None else f"{self.length} frames"
        return f"<VideoState: {length} of {width}x{height}, objects {self.obj_ids}, keep={self.keep}, {self.nbytes()} bytes>"

    @property
    def config(self) -> PredictorConfig:
        """The predictor's configuration."""
        return self.engine.config

    @property
    def obj_ids(self) -> list[int]:
        """Ids of the objects in order of first use."""
        return list(self.objects)

    def object(self, obj_id: int) -> ObjectMemory:
        """Return the memory of an object; made if it is new."""
        if obj_id not in self.objects:
            config = self.config
            rcms = RCMS(
                promote=config.num_prev_frames_to_promote,
                threshold=config.low_quality_threshold,
                bounded=self.keep == "window",
            )
            self.objects[obj_id] = ObjectMemory(rcms)
        return self.objects[obj_id]

    def stored(self, records: Iterable[Record]) -> None:
        """Put records, complete with their memories, where the state keeps them."""
        if self.offload:
            for record in records:
                record.offload()

    def image(self, frame: int) -> ImageFeatures:
        """Return the features of a frame, encoded at most once while it stays in the cache.

        Raises:
            FrameError: the frame cannot be read or has another size.
        """
        found = self._features.get(frame)
        if found is None:
            if self.frames is None:
                raise UsageError(f"frame {frame} has passed", expected="the frame that was handed in last")
            self.feed(frame, self.frames.read(frame).rgb)
            found = self._features[frame]
        self._features.move_to_end(frame)
        return found

    def feed(self, frame: int, rgb: RgbImage) -> None:
        """Encode a frame that was read elsewhere, unless it is in the cache.

        Raises:
            FrameError: it has another size than the video.
        """
        if rgb.shape[:2] != self.size:
            height, width = self.size
            raise FrameError(
                f"frame {frame} is {rgb.shape[1]}x{rgb.shape[0]}", expected=f"{width}x{height} like the rest of the video"
            )
        if frame in self._features:
            return
        while len(self._features) >= CACHED_FRAMES:
            self._features.popitem(last=False)
        self._features[frame] = self.engine.encode(rgb)

    def known(self, obj_id: int) -> ObjectMemory:
        """Return the memory of an object that is followed; raises `UsageError`."""
        if obj_id not in self.objects:
            raise UsageError(f"object {obj_id} is not there", expected=f"one of {self.obj_ids}")
        return self.objects[obj_id]

    def frame_number(self, frame: SupportsIndex) -> int:
        """Return `frame` as an int; raises `UsageError` unless it is a frame of the video."""
        last = None if self.length is None else self.length - 1
        expected = "a number from 0 on" if last is None else f"0 to {last}, the frames of the video"
        try:
            number = operator.index(frame)
        except TypeError:
            raise UsageError(f"frame {frame!r}", expected=expected) from None
        if number < 0 or (last is not None and number > last):
            raise UsageError(f"frame {number}", expected=expected)
        return number

    def check_frame(self, frame: SupportsIndex) -> int:
        """Return `frame` as an int; raises `UsageError` unless prompts may be given for it and tracking may begin there."""
        number = self.frame_number(frame)
        if self.keep == "window" and number < self.passed:
            raise UsageError(
                f"frame {number} has passed: this state remembers only what forward tracking needs",
                fix='Make the state with keep="all" to correct earlier frames',
            )
        return number

    def reset(self) -> None:
        """Forget all objects; frames stay."""
        self.objects.clear()
        self.passed = -1

    def nbytes(self) -> int:
        """Return the bytes of records and cached features."""
        tensors = (x for image in self._features.values() for x in (image.stride16, image.high0, image.high1))
        cached = sum(x.numel() * x.element_size() for x in tensors)
        return cached + sum(memory.nbytes() for memory in self.objects.values())
