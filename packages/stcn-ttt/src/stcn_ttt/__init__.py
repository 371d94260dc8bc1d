"""STCN: space-time correspondence networks as a streaming segmenter."""

from stcn_ttt.__about__ import __version__

__all__ = ["__version__"]
