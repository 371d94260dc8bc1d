"""The networks; they see no files, data sets or command line."""

from rsp_pretrain.model.network import RSP, Draws, Prediction
from rsp_pretrain.model.variants import BACKBONES, FACTORIES, build_backbone, build_rsp
from rsp_pretrain.model.vit import Encoder

__all__ = ["BACKBONES", "FACTORIES", "RSP", "Draws", "Encoder", "Prediction", "build_backbone", "build_rsp"]
