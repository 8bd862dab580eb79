"""A pytest plugin: a skipped test fails the run, unless FEDNOT_CI_ALLOWED_SKIPS names its folder.

What a developer's machine may lack, the machine that decides about a merge must have.
"""

from __future__ import annotations

import os

import pytest

ALLOWED = tuple(os.environ.get("FEDNOT_CI_ALLOWED_SKIPS", "").split())
refused: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes a test that was skipped; an expected failure is none."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _note(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Notes a module that was skipped as a whole."""
    if report.skipped:
        _note(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run."""
    if refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which skips failed it."""
    for nodeid in refused:
        terminalreporter.write_line(f"skipped, and CI allows no skip: {nodeid}", red=True)


def _note(nodeid: str) -> None:
    if not nodeid.startswith(ALLOWED):
        refused.append(nodeid)
