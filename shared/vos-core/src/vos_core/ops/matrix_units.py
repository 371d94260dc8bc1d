"""What the processor can multiply in hardware, which decides what is the fastest way there."""

from __future__ import annotations

import functools

import torch


@functools.lru_cache(maxsize=1)
def has_bf16_matrix_units() -> bool:
    """Say whether this CPU multiplies bfloat16 matrices in hardware made for it (AMX).

    With it torch's own kernels are the fastest in bfloat16; without it some are slower than in float32.
    """
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch has no public name for it
    return supported is not None and bool(supported())
