"""Pages and pictures from result files. Nothing here trains, attacks or imports torch."""

from kdiga.report.page import Page, write_page
from kdiga.report.summary import write_summary

__all__ = ["Page", "write_page", "write_summary"]
