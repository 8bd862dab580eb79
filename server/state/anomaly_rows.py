"""How often something was odd about a client's updates, in the database."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, insert, select, update

from server.records import Anomaly
from server.state.schema import anomalies


def add(connection: Connection, counts: Mapping[tuple[str, Anomaly], int], now: float) -> None:
    """Adds to the counts, by client and kind; the clients have joined."""
    for (client, kind), count in counts.items():
        row = (anomalies.c.client == client, anomalies.c.kind == kind)
        values = {"count": anomalies.c.count + count, "last_at": now}
        changed = connection.execute(update(anomalies).where(*row).values(**values))
        if not changed.rowcount:
            new = {"client": client, "kind": kind, "count": count, "last_at": now}
            connection.execute(insert(anomalies).values(**new))


def by_client(connection: Connection) -> dict[str, dict[str, int]]:
    """The counts by client and kind; who did nothing odd is left out."""
    found: dict[str, dict[str, int]] = {}
    # A row has a method of the name "count".
    query = select(anomalies.c.client, anomalies.c.kind, anomalies.c.count.label("times"))
    for row in connection.execute(query):
        found.setdefault(row.client, {})[row.kind] = row.times
    return found
