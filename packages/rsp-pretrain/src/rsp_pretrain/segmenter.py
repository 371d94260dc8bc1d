"""Label propagation behind the project's contract: frames in, label maps with original ids out."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rsp_pretrain.config import PropagationConfig
from rsp_pretrain.model import Encoder
from rsp_pretrain.prepare import normalise, stretched, to_frame, working_size
from rsp_pretrain.tracker import ClipTracker
from vos_core.checks import check_frame_size, followed, given_masks
from vos_core.contract import Precision
from vos_core.errors import ClipWarning, UsageError
from vos_core.ops.resize import ResizePolicy, resize
from vos_core.run.device import torch_device, torch_dtype
from vos_core.types import Frame, FrameResult, LabelMap, Prompt


class RSPSegmenter:
    """Follows objects through one clip with a frozen encoder; objects may enter or be refreshed at any frame.

    Args:
        encoder: weights; from now on the segmenter's, which moves and converts them in place.
        config: see `PropagationConfig`.
        device: torch device string.
        precision: fp32 is the parity path.
        probabilities: fill `FrameResult.probs` (stretched soft labels, normalised over objects).
    """

    def __init__(
        self,
        encoder: Encoder,
        config: PropagationConfig | None = None,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
    ) -> None:
        dtype = torch_dtype(precision, device)
        self.config = config or PropagationConfig()
        self.probabilities = probabilities
        self.device = torch_device(device)
        self.tracker = ClipTracker(frozen(encoder, device=self.device, dtype=dtype), self.config, dtype=dtype)
        self.reset()

    def reset(self) -> None:
        """Forget the clip; keep weights."""
        self.tracker.reset()
        self.ids: tuple[int, ...] = ()
        self._frame_size: tuple[int, int] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of tokens of the current clip."""
        assert self._frame_size is not None
        height, width = working_size(*self._frame_size, self.config.scale)
        return height // self.tracker.encoder.patch, width // self.tracker.encoder.patch

    def step(self, frame: Frame, prompts: Sequence[Prompt] = ()) -> FrameResult:
        """Return the label map of `frame` at its own size.

        Pixels of given masks come out as given. An object whose mask covers no token centre cannot be followed: that is warned
        about once.

        Raises:
            UsageError: no prompt has been given yet, or one without a mask.
            MaskError: a mask of another size than the frame.
            FrameError: a frame of another size than the first one.
        """
        size = (int(frame.rgb.shape[0]), int(frame.rgb.shape[1]))
        if self._frame_size is None:
            if not prompts:
                raise UsageError(f"frame {frame.name} comes before any mask", fix="Give a mask with the first frame")
        else:
            check_frame_size(frame, self._frame_size)
        masks = given_masks(frame, prompts, taker="label propagation")
        first = self._frame_size is None
        self._frame_size = size
        self.ids += tuple(object_id for object_id in masks if object_id not in self.ids)
        given = {self.ids.index(object_id) + 1: self._tokens(mask) for object_id, mask in masks.items()}
        _warn_of_lost([object_id for object_id in masks if not given[self.ids.index(object_id) + 1].any()], frame, self.grid)
        image = normalise(frame.rgb, working_size(*size, self.config.scale)).to(self.device)
        soft = self.tracker.step(image, given, channels=len(self.ids) + 1)
        shares = stretched(soft, self.tracker.encoder.patch)
        labels = _background(self.ids, *size) if first else self._label_map(shares, size)
        for object_id in masks:
            labels[labels == object_id] = 0
        for object_id, mask in masks.items():
            labels[mask] = object_id
        return FrameResult(labels=labels, ids=self.ids, probs=self._probs(shares, masks, size) if self.probabilities else None)

    def remove(self, ids: Iterable[int]) -> None:
        """Forget these objects.

        Raises:
            UsageError: an id that is not followed; then nothing is forgotten.
        """
        gone = followed(ids, self.ids)
        stay = [place + 1 for place, object_id in enumerate(self.ids) if object_id not in gone]
        self.tracker.keep_channels([0, *stay])
        self.ids = tuple(self.ids[place - 1] for place in stay)

    def state_bytes(self) -> int:
        """Return the bytes held for the current clip."""
        return self.tracker.state_bytes()

    def _tokens(self, mask: npt.NDArray[np.bool_]) -> Tensor:
        small = resize(mask.astype(np.uint8), self.grid, ResizePolicy.PILLOW_NEAREST) > 0
        return torch.from_numpy(small).flatten().to(self.device)

    def _label_map(self, shares: Tensor, size: tuple[int, int]) -> LabelMap:
        best, winner = shares[0].clone(), torch.zeros(shares.shape[1:], dtype=torch.int32, device=shares.device)
        for place in range(1, len(shares)):  # argmax with the first of equals, vectorised
            winner.masked_fill_(shares[place] > best, place)
            torch.maximum(best, shares[place], out=best)
        table = _background(self.ids, len(self.ids) + 1)
        table[1:] = self.ids
        return to_frame(table[winner.cpu().numpy()], size).copy()

    def _probs(
        self, shares: Tensor, masks: Mapping[int, npt.NDArray[np.bool_]], size: tuple[int, int]
    ) -> npt.NDArray[np.float32]:
        total = shares.sum(0, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        planes = (shares / total).cpu().numpy()
        probs = np.stack([resize(np.ascontiguousarray(plane), size, ResizePolicy.PILLOW_NEAREST) for plane in planes])
        for object_id, mask in masks.items():
            probs[:, mask] = 0
            probs[1 + self.ids.index(object_id), mask] = 1
        return probs.astype(np.float32, copy=False)


def frozen(encoder: Encoder, *, device: torch.device, dtype: torch.dtype) -> Encoder:
    """Return `encoder` ready for inference: matrices in `dtype`, norms, positions and the residual stream in float32.

    It is changed in place, layer after layer, so that its weights never exist twice.
    """
    encoder.to(device).eval().requires_grad_(False)
    if dtype != torch.float32:
        for part in encoder.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                part.to(dtype)
    return encoder


def _warn_of_lost(ids: Sequence[int], frame: Frame, grid: tuple[int, int]) -> None:
    """Name the objects of a frame whose given mask covers no token."""
    if not ids:
        return
    shown = ", ".join(map(str, ids))
    text = f"object {shown} covers none" if len(ids) == 1 else f"objects {shown} cover none"
    lost = "is lost; a larger scale would keep it" if len(ids) == 1 else "are lost; a larger scale would keep them"
    warnings.warn(f"frame {frame.name}: {text} of {grid[0]}x{grid[1]} tokens and {lost}", ClipWarning, stacklevel=3)


def _background(ids: Sequence[int], *shape: int) -> LabelMap:
    """Return zeros in the smallest integers that hold `ids`."""
    return np.zeros(shape, np.uint8) if max(ids, default=0) < 256 else np.zeros(shape, np.uint16)
