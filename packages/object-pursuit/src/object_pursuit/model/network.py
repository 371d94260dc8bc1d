"""Codes, hypernetwork and encoder wired together: the networks that are trained, and their checkpoints' attribute names."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from object_pursuit.config import NetworkConfig
from object_pursuit.model.encoder import ResNet18, SmallEncoder
from object_pursuit.model.hypernet import Hypernet, combine_codes
from object_pursuit.model.primary import Stages, Weights, run_stages

Dropout = Literal["always", "train", "never"]
"""`always`: also while scoring, as the original does; `train`: in training mode and not while scoring; `never`."""


def build_encoder(config: NetworkConfig) -> nn.Module | None:
    """Return the encoder that all objects share, or None where it is generated."""
    if config.encoder == "generated":
        return None
    return ResNet18() if config.encoder == "resnet18" else SmallEncoder()


def build_hypernet(config: NetworkConfig) -> Hypernet:
    """Return an untrained hypernetwork."""
    return Hypernet(config.z_dim, config.table)


class CodeNetwork(nn.Module):
    """What all networks with a hypernetwork share. Attributes `hypernet` and `backbone` name the checkpoint's keys.

    Args:
        hypernet: from codes to weights.
        backbone: the shared encoder; None where it is generated.
        dropout: when ASPP and decoder drop.
    """

    def __init__(self, hypernet: Hypernet, backbone: nn.Module | None, *, dropout: Dropout = "always") -> None:
        super().__init__()
        self.hypernet = hypernet
        self.backbone: nn.Module | None = backbone
        self.dropout: Dropout = dropout

    def code(self) -> Tensor:
        """Return the code that this network segments with, `(z_dim,)`."""
        raise NotImplementedError

    def run(
        self,
        images: Tensor,
        weights: Weights,
        *,
        encoder: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        scoring: bool = False,
    ) -> Stages:
        """Return all stages for images `(B, 3, H, W)`, 0-1, with generated `weights` of one code or of M.

        Args:
            images: without normalisation.
            weights: from the hypernetwork.
            encoder: returns features that are known already, in place of the backbone.
            scoring: a fit's networks are scored in training mode, for the batch statistics of their encoder's norms.
        """
        dropout = self.dropout == "always" or (self.dropout == "train" and self.training and not scoring)
        return run_stages(images, weights, self.backbone if encoder is None else encoder, dropout=dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, 1, H, W)` of images `(B, 3, H, W)`, 0-1."""
        return self.run(images, self.hypernet(self.code())).logits


class Multinet(CodeNetwork):
    """Joint pretraining: one code per object.

    Args:
        classes: number of objects.
        hypernet, backbone, dropout: as in `CodeNetwork`.
    """

    def __init__(self, classes: int, hypernet: Hypernet, backbone: nn.Module | None, *, dropout: Dropout = "always") -> None:
        super().__init__(hypernet, backbone, dropout=dropout)
        self.z = nn.Parameter(torch.randn(classes, hypernet.z_dim))

    def forward(self, images: Tensor, index: int | None = None) -> Tensor:
        """Return logits `(B, 1, H, W)` with the code of object `index`, or `(B, N, H, W)` with every code for None."""
        return self.run(images, self.hypernet(self.z if index is None else self.z[index])).logits


class Singlenet(CodeNetwork):
    """One free code, N(0, 1) at the start.

    Args:
        z: start code `(z_dim,)`; None draws one.
        hypernet, backbone, dropout: as in `CodeNetwork`.
    """

    def __init__(
        self, hypernet: Hypernet, backbone: nn.Module | None, *, z: Tensor | None = None, dropout: Dropout = "always"
    ) -> None:
        super().__init__(hypernet, backbone, dropout=dropout)
        self.z = nn.Parameter(torch.randn(hypernet.z_dim) if z is None else z.detach().clone())

    def code(self) -> Tensor:
        """Return z."""
        return self.z


class Coeffnet(CodeNetwork):
    """A combination of base codes; only the coefficients are its own.

    Args:
        bases: codes `(K, z_dim)`; not part of the checkpoint.
        index: start from this base alone; None = from 1/sqrt(K) of each.
        hypernet, backbone, dropout: as in `CodeNetwork`.
    """

    bases: Tensor

    def __init__(
        self,
        hypernet: Hypernet,
        backbone: nn.Module | None,
        *,
        bases: Tensor,
        index: int | None = None,
        dropout: Dropout = "always",
    ) -> None:
        super().__init__(hypernet, backbone, dropout=dropout)
        count = bases.shape[0]
        start = torch.full((count,), 1 / math.sqrt(count))
        if index is not None:
            start = torch.zeros(count)
            start[index] = 1.0
        self.coeffs = nn.Parameter(start)
        self.register_buffer("bases", bases.detach().clone(), persistent=False)

    def code(self) -> Tensor:
        """Return Σ c_i z_i."""
        return combine_codes(self.coeffs, self.bases)
