"""The network at work on frames and objects: batches of objects in, records of them out. Knows no video and keeps no state."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sam2_rcms.config import PredictorConfig
from sam2_rcms.frames import network_image
from sam2_rcms.memory import Clicks, ObjectMemory, ReadRules, Record, plan_reading
from sam2_rcms.model import SAM2, HeadOutput, ImageFeatures, Stability
from sam2_rcms.model.mask_decoder import upsample
from sam2_rcms.rcms import mask_quality
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.ops.components import fill_holes
from vos_core.run.device import torch_dtype
from vos_core.types import RgbImage

OBJECTS_AT_ONCE = 8
"""Objects in one batch; at 1024 pixels each takes about 150 MB while it is computed in float32."""
PROMPT_LIMIT = 32.0
"""Earlier logits are clamped to this before they prompt the next click."""
P = ParamSpec("P")
T = TypeVar("T")


def _computing(function: Callable[P, T]) -> Callable[P, T]:
    """Run a method of `Engine` without gradients and in its precision."""

    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        engine = args[0]
        assert isinstance(engine, Engine)
        with engine.precise():
            return function(*args, **kwargs)

    return wrapped


class Engine:
    """One network on one device in one precision.

    Args:
        network: stays as it is; a copy computes where device or precision ask for one.
        config: see `PredictorConfig`.
        device: torch device string.
        precision: fp32 is the parity path; others compute layers in that type, as autocast does.
        batch_objects: compute up to 8 objects together, else one after the other (less memory).
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
        self._dtype = torch_dtype(precision, device)
        self.config = config or PredictorConfig()
        self.device, self.precision = device, precision
        self.objects_at_once = OBJECTS_AT_ONCE if batch_objects else 1
        self.network = _placed(network, device, self._dtype)
        self._position_keys: dict[tuple[int, int, int], Tensor] = {}

    @contextmanager
    def precise(self) -> Iterator[None]:
        """Compute without gradients, in the engine's precision, in the block."""
        kind = torch.device(self.device).type
        with (
            torch.inference_mode(),
            torch.autocast(kind, self._dtype, enabled=self.precision != "fp32", cache_enabled=False),
        ):
            yield

    @_computing
    def encode(self, rgb: RgbImage) -> ImageFeatures:
        """Return the features of a frame, uint8 `(H, W, 3)`."""
        return self.network.forward_image(network_image(rgb, self.config.image_size, self.device))

    @_computing
    def take_masks(self, image: ImageFeatures, masks: Tensor) -> list[Record]:
        """Return records of given masks of one frame, bool `(B, H, W)`, not yet in memory."""
        side = image.side
        floats = masks.to(self.device).float().unsqueeze(1)
        if tuple(floats.shape[-2:]) != side:
            floats = F.interpolate(floats, size=side, mode="bilinear", align_corners=False, antialias=True)
            floats = (floats >= 0.5).float()
        parts = [self._records(self.network.mask_as_output(image, part)) for part in torch.split(floats, self.objects_at_once)]
        return [record for part in parts for record in part]

    @_computing
    def take_clicks(
        self, image: ImageFeatures, clicks: Clicks, *, before: Record | None, memory: ObjectMemory | None, frame: int,
        rules: ReadRules, reverse: bool = False,
    ) -> Record:  # fmt: skip
        """Return the record of one object's clicks on a frame, not yet in memory.

        Args:
            image: features of the frame.
            clicks: all clicks on it.
            before: the object's record on it so far; its logits are a prompt as well.
            memory: what to read, or None on a frame that was never tracked.
            frame: its index.
            rules: what is read.
            reverse: the frame was last tracked backwards.
        """
        features = self.network.without_memory(image.stride16)
        if memory is not None:
            features = self._read(image, [memory], frame, rules, reverse=reverse)
        config, count = self.config, len(clicks.labels)
        multimask = config.multimask_min_pt_num <= count <= config.multimask_max_pt_num
        mask = None
        if before is not None and before.low is not None:
            mask = before.low.unsqueeze(0).to(self.device).clamp(-PROMPT_LIMIT, PROMPT_LIMIT)
        out = self.network.heads(
            features,
            image,
            points=torch.from_numpy(clicks.points).unsqueeze(0).to(self.device),
            labels=torch.from_numpy(clicks.labels).unsqueeze(0).to(self.device),
            mask=mask,
            multimask=multimask,
            stability=self._stability(),
            at_image_size="none",
        )
        return self._records(out)[0]

    @_computing
    def track(
        self, image: ImageFeatures, memories: Sequence[ObjectMemory], frame: int, rules: ReadRules, *, reverse: bool = False
    ) -> list[Record]:
        """Return the records of tracked objects on a frame, with memories; objects that read equally much go together."""
        found: dict[int, Record] = {}
        for places in self._batches(memories, frame, rules, reverse=reverse):
            some = [memories[place] for place in places]
            features = self._read(image, some, frame, rules, reverse=reverse)
            config = self.config
            out = self.network.heads(
                features,
                image,
                multimask=config.multimask_min_pt_num <= 0 <= config.multimask_max_pt_num,
                stability=self._stability(),
            )
            assert out.high is not None
            records = self._records(out)
            # Memory is encoded from logits before holes are filled; see `_records`.
            self._encode(image, out.high, out.score, records, binary=False)
            found.update(zip(places, records, strict=True))
        return [found[place] for place in range(len(memories))]

    @_computing
    def remember(self, image: ImageFeatures, records: Sequence[Record]) -> None:
        """Encode the memories of prompted records of one frame, from their low-resolution logits as the original does."""
        for start in range(0, len(records), self.objects_at_once):
            some = records[start : start + self.objects_at_once]
            low = torch.stack([record.low for record in some if record.low is not None]).to(self.device)
            score = torch.tensor([[record.score] for record in some], device=low.device)
            high = upsample(low, image.side)
            self._encode(image, high, score, some, binary=self.config.binarize_mask_from_pts_for_mem_enc)

    def _encode(self, image: ImageFeatures, high: Tensor, score: Tensor, records: Sequence[Record], *, binary: bool) -> None:
        kind = torch.float32 if self.config.memory_dtype == "float32" else torch.bfloat16
        # One by one on a CPU: what is made of a mask at image size then stays in the cache.
        step = 1 if self.device == "cpu" else len(records)
        for start in range(0, len(records), step):
            some = slice(start, start + step)
            memory = self.network.encode_memory(
                image.stride16,
                high[some],
                score[some],
                scale=self.config.sigmoid_scale_for_mem_enc,
                bias=self.config.sigmoid_bias_for_mem_enc,
                binary=binary,
            )
            for record, own in zip(records[some], memory, strict=True):
                record.memory = _own(own.to(kind), alone=len(memory) == 1)

    def _records(self, out: HeadOutput) -> list[Record]:
        low = fill_holes(out.low, self.config.fill_hole_area)
        quality = mask_quality(out.score, out.ious, low)
        # One transfer for all objects of the batch.
        numbers = torch.stack((out.score.flatten().float(), quality)).T.tolist()
        alone = len(numbers) == 1
        return [
            Record(_own(low[place], alone=alone), out.pointer[place].float().clone(), score, out.ious[place].float(), good)
            for place, (score, good) in enumerate(numbers)
        ]

    def _stability(self) -> Stability | None:
        config = self.config
        if not config.dynamic_multimask_via_stability:
            return None
        return Stability(config.dynamic_multimask_stability_delta, config.dynamic_multimask_stability_thresh)

    def _batches(self, memories: Sequence[ObjectMemory], frame: int, rules: ReadRules, *, reverse: bool) -> Iterator[list[int]]:
        alike: dict[tuple[int, int], list[int]] = {}
        for place, memory in enumerate(memories):
            reading = plan_reading(frame, memory.cond, memory.tracked, rules, reverse=reverse)
            alike.setdefault((len(reading.spatial), len(reading.pointers)), []).append(place)
        for places in alike.values():
            for start in range(0, len(places), self.objects_at_once):
                yield places[start : start + self.objects_at_once]

    def _read(
        self, image: ImageFeatures, memories: Sequence[ObjectMemory], frame: int, rules: ReadRules, *, reverse: bool
    ) -> Tensor:
        """Return features conditioned on the memories of objects that read equally many, `(B, 256, h, w)`."""
        plans = [plan_reading(frame, memory.cond, memory.tracked, rules, reverse=reverse) for memory in memories]
        codes = torch.tensor([[code for code, _, _ in plan.spatial] for plan in plans], device=self.device)
        distances = torch.tensor([[far for far, _, _ in plan.pointers] for plan in plans], device=self.device)
        if (codes == codes[:1]).all():
            codes = codes[:1]
        if (distances == distances[:1]).all():
            distances = distances[:1]
        maps = []
        for rank in range(codes.shape[1]):
            stored = [plan.spatial[rank][2].memory for plan in plans]
            maps.append(torch.stack([memory for memory in stored if memory is not None]).to(self.device))
        pointers = None
        if distances.shape[1]:
            pointers = torch.stack([torch.stack([record.pointer for _, _, record in plan.pointers]) for plan in plans])
        keys = None
        if self.config.cache_memory_keys:
            keys = self._keys([[(code, record) for code, _, record in plan.spatial] for plan in plans])
        return self.network.read_memory(image.stride16, maps, codes, pointers, distances, span=plans[0].span, keys=keys)

    def _keys(self, spatial: list[list[tuple[int, Record]]]) -> list[Tensor]:
        """Return each layer's keys `(B, K, 256)` of spatial memories, of which only new ones are projected."""
        attention, dtype = self.network.memory_attention, self._dtype
        layers = len(attention.layers)
        whole: Tensor | None = None
        for item, memories in enumerate(spatial):
            for place, (code, record) in enumerate(memories):
                assert record.memory is not None
                height, width = record.memory.shape[-2:]
                if record.keys is None:
                    record.keys = attention.memory_keys(record.memory.to(self.device).flatten(1).T).to(
                        record.memory.device, dtype
                    )
                known = (code, height, width)
                if known not in self._position_keys:
                    position = self.network.position_of_memory((height, width), code)
                    self._position_keys[known] = attention.position_keys(position).to(dtype)
                length = height * width
                if whole is None:
                    size = (layers, len(spatial), len(memories) * length, record.keys.shape[-1])
                    whole = torch.empty(size, dtype=record.keys.dtype, device=self.device)
                part = whole[:, item, place * length : (place + 1) * length]
                torch.add(record.keys.to(self.device), self._position_keys[known], out=part)
        assert whole is not None
        return list(whole)


def _own(tensor: Tensor, *, alone: bool) -> Tensor:
    """Return a tensor with storage of its own, so that one object's record does not keep a batch alive."""
    return tensor.contiguous() if alone else tensor.clone(memory_format=torch.contiguous_format)


def _placed(network: SAM2, device: str, dtype: torch.dtype) -> SAM2:
    """Return the network on `device`, matrices in `dtype`; norms, tokens and position codes stay float32, as under autocast."""
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"unknown device '{device}'", expected="cpu, cuda or cuda:<index>") from error
    if where.type == "cpu" and dtype == torch.float32:
        return network.eval()
    placed = copy.deepcopy(network).eval().to(where)
    if dtype != torch.float32:
        for module in placed.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                module.to(dtype)
    return placed
