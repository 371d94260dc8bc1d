"""What becomes of freed memory while training."""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # mallopt(3)


@functools.lru_cache(maxsize=1)
def keep_freed_memory() -> bool:
    """Keep freed memory for the next tensor, in this process from now on; return whether the allocator can be told so (glibc).

    The steps of a training allocate the same sizes again and again. glibc gives every large tensor back to the system, which
    hands the same memory out again page by page, zeroed: up to an eighth of the time of a step with large maps. The peak grows
    by up to a tenth in return, since a large tensor can no longer lie just anywhere.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return all(mallopt(option, value) == 1 for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)))
