"""The HTML report of a run or a bench: its data, its figures and its page."""

from pipeline.report.build import ReportError, attach_report, write_report
from pipeline.report.run_data import RunData, read_bench, read_run

__all__ = ["ReportError", "RunData", "attach_report", "read_bench", "read_run", "write_report"]
