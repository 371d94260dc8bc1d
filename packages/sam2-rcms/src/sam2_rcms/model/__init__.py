"""The SAM 2.1 network: blocks whose attribute names equal the official checkpoints' keys, and what wires them."""

from sam2_rcms.model.network import NO_OBJECT, SAM2, HeadOutput, ImageFeatures, Stability

__all__ = ["NO_OBJECT", "SAM2", "HeadOutput", "ImageFeatures", "Stability"]
