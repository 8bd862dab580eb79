"""The report of a study: tables, plots and figures for programs, from its folder of results."""

from lab.report.writing import Written, write

__all__ = ["Written", "write"]
