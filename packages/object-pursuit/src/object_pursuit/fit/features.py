"""Batches that are scored again and again: read once, and encoded once where the encoder cannot change (spec section 8.2)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from object_pursuit.fit.fitter import EncoderFunction, Fitter
from object_pursuit.model import CodeNetwork
from object_pursuit.samples import ObjectImages, Samples

Features = tuple[Tensor, Tensor]
_BUDGET = 512 * 2**20
"""Bytes of images and features that one fit keeps."""


class FixedBatches:
    """The evaluation batches of a fit.

    Whole batches are cached, because norms that use batch statistics make features depend on a batch's other images. An encoder
    whose features are taken from here is not run, so its running statistics (which batch statistics leave unused) stay.

    Args:
        data: images; randomly cropped ones are read anew each time.
        batches: indices of each batch.
        model: its encoder's features are kept if the encoder is frozen.
        device: where batches go.
    """

    def __init__(self, data: ObjectImages, batches: list[list[int]], model: nn.Module, *, device: torch.device) -> None:
        self.data, self.batches, self.model, self.device = data, batches, model, device
        self.sizes = [len(batch) for batch in batches]
        self._samples: dict[int, Samples] = {}
        self._features: dict[int, Features] = {}
        self._room = _BUDGET

    def score(self, fitter: Fitter, *, draw: int) -> float:
        """Return the quality over all batches: the mean over batches if all are of one size, else weighted by images."""
        scores = fitter.evaluate(self.read(draw), encoders=self.encoders())
        if not scores:
            return 0.0
        if len(set(self.sizes)) == 1:
            return sum(scores) / len(scores)
        return sum(score * size for score, size in zip(scores, self.sizes, strict=True)) / sum(self.sizes)

    def read(self, draw: int) -> Iterator[Samples]:
        """Yield the batches; without random crops each is read once."""
        for place, indices in enumerate(self.batches):
            found = self._samples.get(place)
            if found is None:
                found = self.data.read(indices, draw=draw)
                if not self.data.cropped and self._fits(found.images, found.masks):
                    self._samples[place] = found
            yield found

    def encoders(self, *, always: bool = False) -> Iterator[EncoderFunction | None]:
        """Yield for each batch a function in place of the encoder, or None to use the encoder itself.

        Args:
            always: nothing is trained between readings, so features may be kept although the encoder is not frozen.
        """
        backbone = self.model.backbone if isinstance(self.model, CodeNetwork) else None
        frozen = always or (backbone is not None and not any(part.requires_grad for part in backbone.parameters()))
        for place in range(len(self.batches)):
            if backbone is None or not frozen or self.data.cropped:
                yield None
            else:
                yield self._encoder(place, backbone)

    def _encoder(self, place: int, backbone: nn.Module) -> EncoderFunction:
        def encode(images: Tensor) -> Features:
            found = self._features.get(place)
            if found is None:
                found = backbone(images)
                if self._fits(*found):
                    self._features[place] = found
            return found

        return encode

    def _fits(self, *tensors: Tensor) -> bool:
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if size > self._room:
            return False
        self._room -= size
        return True
