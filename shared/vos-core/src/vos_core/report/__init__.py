"""One self-contained page for runs and comparisons."""

from vos_core.report.compare import Row, comparison_record, comparison_rows, text_table
from vos_core.report.failures import Failure, failures
from vos_core.report.page import build_page, write_page
from vos_core.report.scoring import score_run

__all__ = [
    "Failure",
    "Row",
    "build_page",
    "comparison_record",
    "comparison_rows",
    "failures",
    "score_run",
    "text_table",
    "write_page",
]
