"""`flow`: dense inverse search optical flow carries each object's soft mask from frame to frame. No weights, no learning.

Flow: T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast Optical Flow using Dense Inverse Search", ECCV 2016, as in OpenCV.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import Field

from vos_core.checks import check_frame_size, followed, given_masks, label_dtype
from vos_core.config import Config, build_config, option_help
from vos_core.contract import BuildRequest, MethodInfo
from vos_core.errors import UsageError
from vos_core.types import Frame, FrameResult, Prompt

_PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}


class FlowConfig(Config):
    """Options of the `flow` method."""

    preset: Literal["ultrafast", "fast", "medium"] = Field("fast", description="effort of the flow: ultrafast, fast or medium")
    finest_scale: int = Field(0, ge=0, le=4, description="finest level of the flow: 0 is full size, each further one half")
    consistency: float = Field(
        0.7,
        ge=0.0,
        le=1.0,
        description="factor on the masks where flow there and back disagree (occlusion); 1 leaves them and saves half the time",
    )


class FlowSegmenter:
    """Warps the masks of frame t-1 to frame t along the flow from t back to t-1; one pair of flows serves all objects.

    State is constant: the last grey frame and one float32 plane per object. CPU and float32 whatever the run's precision.
    """

    def __init__(self, config: FlowConfig, *, probabilities: bool = False) -> None:
        self.config = config
        self._probabilities = probabilities
        self._flow = cv2.DISOpticalFlow.create(_PRESETS[config.preset])
        self._flow.setFinestScale(config.finest_scale)
        self._ids: list[int] = []
        self._soft: npt.NDArray[np.float32] | None = None  # (N, H, W), 0-1; background is what is left
        self._grey: npt.NDArray[Any] | None = None

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the warped masks for `frame`, with those of `prompts` painted over them."""
        grey: npt.NDArray[Any] = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY)
        if self._grey is None:
            if not prompts:
                raise UsageError(f"frame {frame.name} is the first and brings no mask", fix="Give a mask with the first step")
            self._soft = np.zeros((0, *grey.shape), np.float32)
        else:
            check_frame_size(frame, (self._grey.shape[0], self._grey.shape[1]))
        given = given_masks(frame, prompts, taker="flow")
        if self._grey is not None:
            self._warp(grey)
        self._grey = grey
        for object_id, mask in given.items():
            self._paint(object_id, mask)
        return self._result()

    def _warp(self, grey: npt.NDArray[Any]) -> None:
        assert self._grey is not None
        assert self._soft is not None
        back = self._calc(grey, self._grey)  # where each pixel of this frame came from
        height, width = grey.shape
        x = back[..., 0] + np.arange(width, dtype=np.float32)
        y = back[..., 1] + np.arange(height, dtype=np.float32)[:, None]
        trust = self._trust(grey, back, x, y) if self.config.consistency < 1 else None
        for plane in self._soft:
            plane[:] = cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            if trust is not None:
                plane *= trust

    def _calc(self, start: npt.NDArray[Any], end: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the flow `(H, W, 2)`, x then y in pixels, from `start` to `end`."""
        return self._flow.calc(start, end, None)  # type: ignore[call-overload]  # an array would be taken for a first guess

    def _trust(
        self, grey: npt.NDArray[Any], back: npt.NDArray[np.float32], x: npt.NDArray[np.float32], y: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return the factor on the masks, `(H, W)`: 1 where the flow from t-1 to t leads back to where `back` came from."""
        assert self._grey is not None
        there = self._calc(self._grey, grey)
        there = cv2.remap(there, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        error = cv2.magnitude(there[..., 0] + back[..., 0], there[..., 1] + back[..., 1])
        bound = 1 + 0.1 * cv2.magnitude(back[..., 0], back[..., 1])  # pixels; grows as flow errors do with its length
        return np.where(error > bound, np.float32(self.config.consistency), np.float32(1))

    def _paint(self, object_id: int, mask: npt.NDArray[np.bool_]) -> None:
        assert self._soft is not None
        if object_id not in self._ids:
            self._ids.append(object_id)
            self._soft = np.concatenate([self._soft, np.zeros((1, *mask.shape), np.float32)])
        self._soft[:, mask] = 0
        self._soft[self._ids.index(object_id)] = mask

    def _result(self) -> FrameResult:
        assert self._soft is not None
        probs = np.concatenate([np.clip(1 - self._soft.sum(0, keepdims=True), 0, 1), self._soft])
        labels = np.asarray([0, *self._ids], dtype=label_dtype(self._ids))[probs.argmax(0)]
        return FrameResult(labels=labels, ids=tuple(self._ids), probs=probs if self._probabilities else None)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects; their pixels become background."""
        gone = followed(ids, self._ids)
        assert self._soft is not None
        self._soft = np.ascontiguousarray(self._soft[[index for index, known in enumerate(self._ids) if known not in gone]])
        self._ids = [known for known in self._ids if known not in gone]

    def reset(self) -> None:
        """Forget the clip."""
        self._ids, self._soft, self._grey = [], None, None

    def state_bytes(self) -> int:
        """Return the bytes of the soft masks and the last frame."""
        return sum(array.nbytes for array in (self._soft, self._grey) if array is not None)


def build(request: BuildRequest) -> FlowSegmenter:
    """Return the segmenter for `request.options`; it has no weights."""
    return FlowSegmenter(_config(request), probabilities=request.probabilities)


def settings(request: BuildRequest) -> dict[str, Any]:
    """Return the value of every option."""
    return _config(request).model_dump(mode="json")


def _config(request: BuildRequest) -> FlowConfig:
    return build_config(FlowConfig, request.options)


METHOD = MethodInfo(
    name="flow",
    summary="Warp masks along DIS optical flow: what motion alone achieves (CPU, no weights).",
    settings=settings,
    build=build,
    options=option_help(FlowConfig),
)
