"""What is odd about updates is counted once, whatever happens to the database meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from fednot.errors import FednotError, Reason
from server.anomalies import Anomalies, kind_of
from server.records import Anomaly, ClientRecord
from server.state import anomaly_rows, client_rows
from server.state.commits import Commit
from server.state.database import Database


def test_a_count_that_could_not_be_written_is_written_later() -> None:
    counts = Anomalies()
    counts.note("a", Anomaly.CLIPPED)

    def fails() -> None:
        with counts.taken():
            counts.note("a", Anomaly.CLIPPED)
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fails()
    with counts.taken() as found:
        assert found == {("a", Anomaly.CLIPPED): 2}
    assert not counts.unwritten
    with counts.taken() as found:
        assert found == {}
    assert counts.of("a") == {"clipped": 2}
    assert counts.of("b") == {}


async def test_counts_go_on_from_what_is_stored(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.sqlite3")
    record = ClientRecord("a", 1.0, 1.0, 5, 0, "cpu")
    await database.write(Commit.CLIENT_JOINED, lambda c: client_rows.record_join(c, record))
    counts = Anomalies()
    for kind in (Anomaly.STALE, Anomaly.STALE, Anomaly.LEFT_OUT):
        counts.note("a", kind)
    for _ in range(2):
        with counts.taken() as found:
            await database.write(
                Commit.CLIENTS_SEEN, lambda c, found=found: anomaly_rows.add(c, found, 2.0)
            )
        counts.note("a", Anomaly.STALE)

    stored = await database.read(anomaly_rows.by_client)
    assert stored == {"a": {"stale": 3, "left_out": 1}}
    again = Anomalies(stored)
    again.note("a", Anomaly.STALE)
    assert again.of("a") == {"left_out": 1, "stale": 4}
    database.close()


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.NOT_FINITE, Anomaly.NOT_FINITE),
        (Reason.WRONG_BASE_VERSION, Anomaly.STALE),
        (Reason.STALE_GENERATION, Anomaly.STALE),
        (Reason.ROUND_OVER, None),
        (Reason.SERVER_BUSY, None),
    ],
)
def test_only_what_says_something_about_the_update_is_counted(
    reason: Reason, kind: Anomaly | None
) -> None:
    assert kind_of(FednotError(reason, "no")) is kind
    assert kind_of(OSError("no")) is None
    assert kind_of(None) is None
