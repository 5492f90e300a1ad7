"""Pages and pictures from result files. Nothing here trains, attacks or imports torch."""

from kdiga.report.compose import Page, write_page
from kdiga.report.page import Report, write_report

__all__ = ["Page", "Report", "write_page", "write_report"]
