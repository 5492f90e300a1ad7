"""Pages and pictures from result files. Nothing here trains, attacks or imports torch."""

from kdiga.report.page import Report, write_report

__all__ = ["Report", "write_report"]
