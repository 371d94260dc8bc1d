"""The networks; attribute names equal the official checkpoints' keys."""

from object_pursuit.model.comparator import DeepLab, MultiDeepLab, UNet
from object_pursuit.model.hypernet import Hypernet
from object_pursuit.model.network import CodeNetwork, Coeffnet, Multinet, Singlenet, build_encoder, build_hypernet

__all__ = [
    "CodeNetwork",
    "Coeffnet",
    "DeepLab",
    "Hypernet",
    "MultiDeepLab",
    "Multinet",
    "Singlenet",
    "UNet",
    "build_encoder",
    "build_hypernet",
]
