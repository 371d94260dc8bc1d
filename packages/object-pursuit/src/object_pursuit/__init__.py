"""Object pursuit: every object is a code, a hypernetwork turns codes into segmentation networks, the space of codes grows."""

from __future__ import annotations

from object_pursuit.__about__ import __version__

__all__ = ["__version__"]
