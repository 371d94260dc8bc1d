"""Published scores by benchmark and checkpoint, in percent (spec section 1)."""

from __future__ import annotations

from collections.abc import Mapping

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "davis2017": {
        "R50_DeAOTL_temp_pe_10wstep_80000": {"J&F": 85.2, "J": 82.3, "F": 88.2},
        "R50_DeAOTL_PRE_YTB_DAV": {"J&F": 85.2, "J": 82.3, "F": 88.1},
        "R50_AOTL_PRE_YTB_DAV": {"J&F": 85.2, "J": 82.5, "F": 87.9},
    },
    "davis2016": {"R50_AOTL_PRE_YTB_DAV": {"J&F": 91.1}},
    "vost": {
        "aotplus_R50_DeAOTL_Temp_pe_Slot_4_ema_20000": {"J_tr": 40.4, "J": 51.8},
        "aotplus_R50_AOTL_Temp_pe_Slot_4_ema_20000": {"J_tr": 39.8, "J": 50.5},
        "R50_DeAOTL_VOST": {"J_tr": 37.6, "J": 51.0},
        "R50_AOTL_VOST": {"J_tr": 37.0, "J": 49.2},
    },
}
"""Benchmark -> name of the checkpoint, as registered or the stem of its file -> score -> percent."""


def published_row(benchmark: str, weights: str | None) -> str:
    """Return the published scores of a checkpoint as one line, "" if there are none.

    >>> published_row("vost", "R50_AOTL_VOST")
    'J_tr 37.0, J 49.2'
    """
    scores = PUBLISHED.get(benchmark, {}).get(weights or "", {})
    return ", ".join(f"{name} {value}" for name, value in scores.items())
