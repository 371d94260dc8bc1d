"""Offline training of STCN: static images, BL30K, then DAVIS and YouTube-VOS (spec section 4)."""
