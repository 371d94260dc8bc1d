"""Test-time training: adapt the network to one video by a self-supervised objective before segmenting it (spec section 3)."""
