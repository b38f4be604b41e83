"""``report.html``: the page that a chemist opens after docking. One file, offline, with a 3-D viewer inside."""

from domains.docking.dock.report.page import write_report, write_run_report

__all__ = ["write_report", "write_run_report"]
