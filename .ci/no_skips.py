"""A pytest plugin: a skipped test fails the run, unless FEDNOT_CI_ALLOWED_SKIPS names its folder.

What a developer's machine may lack, the machine that decides about a merge must have.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

ALLOWED = tuple(os.environ.get("FEDNOT_CI_ALLOWED_SKIPS", "").split())
SENTENCE = "skipped, and CI allows no skip:"
refused: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes a test that was skipped; an expected failure is none."""
    skipped = report.skipped and not hasattr(report, "wasxfail")
    if skipped and not report.nodeid.startswith(ALLOWED):
        refused.append(report.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Makes the skip of a whole module a failure where it is collected, be it a worker of xdist."""
    report = yield
    if report.skipped and not report.nodeid.startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"{SENTENCE} {report.nodeid}"
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails the run."""
    if refused and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which skips failed it."""
    for nodeid in refused:
        terminalreporter.write_line(f"{SENTENCE} {nodeid}", red=True)
