"""The STCN network: blocks whose attribute names equal the official checkpoints' keys, and what wires them."""

from stcn_ttt.model.network import STCN, KeyFeatures, Segmentation

__all__ = ["STCN", "KeyFeatures", "Segmentation"]
