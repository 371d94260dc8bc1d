"""What the tests of every member share: reference numbers and comparing with them, and ranks. Needs pytest."""

from vos_core.testing.goldens import GOLDENS, SHARED, clip_file, golden_cases, needs_shared, seeded_module
from vos_core.testing.ranks import run_ranks
from vos_core.testing.tolerance import assert_within

__all__ = ["GOLDENS", "SHARED", "assert_within", "clip_file", "golden_cases", "needs_shared", "run_ranks", "seeded_module"]
