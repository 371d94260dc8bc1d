"""Training of AOT, DeAOT and RMem: still images, then videos, then long ones (spec section 4)."""
