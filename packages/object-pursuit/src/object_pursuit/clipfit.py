"""Fitting an object's code to the annotated frames of a clip, with hypernetwork and encoder frozen (spec section 4.4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from object_pursuit.config import SegmenterConfig
from object_pursuit.fit import ONE_SHOT, Fitter
from object_pursuit.model import Coeffnet, Singlenet
from object_pursuit.parts import Parts
from object_pursuit.samples import ObjectImages
from vos_core.contract import Precision
from vos_core.errors import UsageError
from vos_core.run.work import report_work

OnStep = Callable[[int, int, float], None]
"""Told steps done, steps in all, and the loss."""


class CodeFitter:
    """Makes codes for the objects of clips; call it with an object's images and the number of the fit.

    There is no truth to choose a best epoch by, so the last step's code is taken.

    Args:
        parts: frozen from now on; the encoder's norms must not change when used (see `segmenter.frozen_encoder`).
        config: see `SegmenterConfig`.
        seed: of start codes and dropout; images bring their own.
        device: torch device string.
        precision: of the segmentation while fitting.
        on_step: see `OnStep`.
    """

    def __init__(
        self,
        parts: Parts,
        config: SegmenterConfig,
        *,
        seed: int = 0,
        device: str = "cpu",
        precision: Precision = "fp32",
        on_step: OnStep | None = None,
    ) -> None:
        if config.model == "coeffnet" and not len(parts.codes):
            raise UsageError("these weights bring no codes to combine", fix="Choose model=singlenet, or name codes")
        self.parts, self.config, self.seed = parts, config, seed
        self.device, self.precision, self.on_step = device, precision, on_step
        self.options = ONE_SHOT.model_copy(update={"lr": config.lr, "batch": config.batch_size})

    def steps(self, images: int) -> int:
        """Return the steps of a fit to a clip of so many images."""
        if self.config.steps is not None:
            return self.config.steps
        return self.config.epochs * max(1, images // self.config.batch_size)

    def __call__(self, images: ObjectImages, number: int) -> Tensor:
        """Return the code `(z_dim,)` after the last step.

        Raises:
            VosError: the loss is not finite.
        """
        hypernet, encoder = self.parts.hypernet.requires_grad_(False), self.parts.encoder
        devices = [torch.device(self.device)] if self.device.startswith("cuda") else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed + number)
            network: Coeffnet | Singlenet
            if self.config.model == "coeffnet":
                network = Coeffnet(hypernet, encoder, bases=self.parts.codes, dropout="always")
            else:
                network = Singlenet(hypernet, encoder, dropout="always")
            network.to(self.device)
            count = self.steps(len(images))
            if count == 0:
                return network.code().detach()
            fitter = Fitter(network, self.options, device=self.device, precision=self.precision)
            if encoder is not None:
                encoder.train(self.config.encoder_norm == "batch")
            for step in range(count):
                first = step * self.config.batch_size
                indices = [(first + place) % len(images) for place in range(self.config.batch_size)]
                figures = fitter.step(images.read(indices, draw=step))
                report_work(f"fitting {images.name}", step + 1, count)
                if self.on_step is not None:
                    self.on_step(step + 1, count, figures.loss)
        return network.code().detach()
