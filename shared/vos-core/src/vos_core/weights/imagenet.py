"""ImageNet classification weights that encoders start from, by way of our cache and checks: torchvision's, and Swin's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vos_core.weights.registry import WeightsEntry, resolve_entry

if TYPE_CHECKING:
    from torch import Tensor

VERSIONS = {
    "resnet18": "ResNet18_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet101": "ResNet101_Weights",
    "mobilenet_v2": "MobileNet_V2_Weights",
}
"""Architecture -> torchvision's name of its weights; all are IMAGENET1K_V1, the ones the original recipes start from."""
_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224_22k.pth"


def imagenet_entry(name: str) -> WeightsEntry:
    """Return where the weights of architecture `name` are: one of `VERSIONS`, or `swin_base`. Raises `KeyError` otherwise."""
    if name == "swin_base":
        return WeightsEntry(
            name="swin_base-imagenet22k",
            method="imagenet",
            url=_SWIN,
            licence="MIT",
            source="https://github.com/microsoft/Swin-Transformer",
            notes="ImageNet-22k classification, window 7, 224 pixels",
        )
    from torchvision.models import get_weight

    url = get_weight(f"{VERSIONS[name]}.IMAGENET1K_V1").url
    return WeightsEntry(
        name=f"{name}-imagenet",
        method="imagenet",
        url=url,
        licence="BSD-3-Clause",
        source="https://docs.pytorch.org/vision/stable/models.html",
        notes="ImageNet-1k classification, version 1",
    )


def imagenet_state(name: str, *, download: bool = True) -> dict[str, Tensor]:
    """Return the published state dict of architecture `name` from the cache, downloading it once.

    Raises:
        WeightsError: it is not in the cache and cannot be downloaded.
    """
    from vos_core.weights.load import load_state

    return load_state(resolve_entry(imagenet_entry(name), download=download).path)
