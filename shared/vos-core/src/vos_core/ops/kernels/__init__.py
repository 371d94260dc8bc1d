"""Triton sources, imported on demand by the ops that own them."""
