"""A batch of clips to its losses, in one module call, so that several ranks exchange gradients of just what is descended."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sam2_rcms.model import SAM2
from sam2_rcms.train.config import TrainConfig
from sam2_rcms.train.dataset import ClipBatch
from sam2_rcms.train.forward import ClipOutput, ClipPass
from sam2_rcms.train.losses import clip_losses


class ClipLoss(nn.Module):
    """Prompts, predictions and losses of a batch.

    Args:
        network: the weights.
        config: prompts, losses and mask scaling.
    """

    def __init__(self, network: SAM2, config: TrainConfig) -> None:
        super().__init__()
        self.clips = ClipPass(
            network, config.prompts, scale=config.sigmoid_scale_for_mem_enc, bias=config.sigmoid_bias_for_mem_enc
        )
        self.config = config.loss
        self.last: ClipOutput | None = None

    def forward(self, batch: ClipBatch, rng: np.random.Generator, objects: float) -> dict[str, Tensor]:
        """Return the four losses and `core_loss`; what was predicted stays in `last`, without gradients.

        Args:
            batch: on the network's device.
            rng: of the decisions about prompts.
            objects: number that losses are divided by.
        """
        output = self.clips(batch, rng)
        self.last = output.detached()
        # Out of autocast: sums over a million pixels in bfloat16 would be noise.
        with torch.autocast(batch.images.device.type, enabled=False):
            return clip_losses(output.steps, batch.masks, self.config, objects=objects)
