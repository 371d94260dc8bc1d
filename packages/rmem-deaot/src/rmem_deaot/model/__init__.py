"""The networks: encoders, identity bank, propagation layers, decoder."""

from rmem_deaot.model.network import AOTNetwork, Features, Propagation, mask_unused

__all__ = ["AOTNetwork", "Features", "Propagation", "mask_unused"]
