"""One federation for all attacks, which must train on after each; a table of what came of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("support.hostile.stage")

from support.hostile.stage import Stage  # noqa: E402
from support.hostile.told import HEADINGS, Attack, table  # noqa: E402

TABLE = pytest.StashKey[dict[Attack, list[tuple[bool, str]]]]()
FAILED = pytest.StashKey[bool]()
NOTES = "measured"


@pytest.fixture(scope="session")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("attacked"))
    with stage.federation:
        stage.begin()
        yield stage


@pytest.fixture
def stage(begun: Stage, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """The federation; when the attack is over, it completes a round."""
    begun.notes.clear()
    yield begun
    begun.complete_round()
    request.node.user_properties.append((NOTES, "; ".join(begun.notes)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    report = yield
    found = getattr(getattr(item, "function", None), "attack", None)
    if report.failed:
        item.stash[FAILED] = True
    if isinstance(found, Attack) and report.when == "teardown":
        came = item.config.stash.setdefault(TABLE, {})
        notes = str(dict(item.user_properties).get(NOTES, ""))
        came.setdefault(found, []).append((item.stash.get(FAILED, False), notes))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Prints what came of each attack."""
    rows = []
    for found, came in config.stash.get(TABLE, {}).items():
        held = "FAILED" if any(failed for failed, _ in came) else "held"
        rows.append((*found.cells, held, " / ".join(notes for _, notes in came)))
    if rows:
        terminalreporter.section("attacks")
        terminalreporter.write_line(table(rows, (*HEADINGS, "now", "measured")))
