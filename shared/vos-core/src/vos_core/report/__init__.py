"""One self-contained page for runs and comparisons, and sheets for everything else."""

from vos_core.report.charts import Chart, plain_figure
from vos_core.report.compare import Row, comparison_record, comparison_rows, text_table
from vos_core.report.failures import Failure, failures
from vos_core.report.page import build_page, write_page
from vos_core.report.scoring import score_run
from vos_core.report.sheet import Picture, Section, Table, build_sheet, chart, write_sheet

__all__ = [
    "Chart",
    "Failure",
    "Picture",
    "Row",
    "Section",
    "Table",
    "build_page",
    "build_sheet",
    "chart",
    "comparison_record",
    "comparison_rows",
    "failures",
    "plain_figure",
    "score_run",
    "text_table",
    "write_page",
    "write_sheet",
]
