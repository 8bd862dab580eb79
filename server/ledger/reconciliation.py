"""What the database does not know of the ledger is made good before anybody is served.

The database may be older than the ledger: after a crash between the two, or when it was restored
from a backup. Then it holds the weights of before the deletions that it does not know.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from server.ledger.file import CANCELLED, Key, Ledger, Standing
from server.ledger.requests import Held, asked, endings, held, requeue, scopes_in, told
from server.phases import ENDED
from server.records import Scope, ScopeKind
from server.state import version_rows

log = logging.getLogger("server.ledger")


@dataclass(frozen=True)
class Reconciled:
    """What was done: the requests that were queued again, and sentences for whoever operates."""

    requeued: tuple[Key, ...]
    told: tuple[str, ...]


def reconcile(connection: Connection, ledger: Ledger, now: float) -> Reconciled:
    """Brings a database up to its ledger, and the ledger up to its database, in one transaction.

    What the database does not hold is asked for again, fenced and the release withdrawn; what it
    holds is trusted, for only the commit that made it is followed by a note of its end. Where the
    ledger has lifted a bar that stands in the database, the bar stands.
    """
    known = held(connection)
    adopted = [asked(connection, key) for key in known if key not in ledger.standings]
    missing = {
        key: noted
        for key, noted in ledger.standings.items()
        if key not in known and noted.lifted != CANCELLED
    }
    for noted in missing.values():
        requeue(connection, noted, now)
    if any(noted.completed and _is_open(known.get(key)) for key, noted in ledger.standings.items()):
        version_rows.set_released(connection, 0)
    sentences = [*_told_of_missing(missing), *_told_of_known(ledger, known)]
    barred_again = [
        asked(connection, key)
        for key, request in held(connection).items()
        if request.barred and key in ledger.standings and ledger.standings[key].lifted
    ]
    ledger.append(connection, [*adopted, *barred_again], now)
    ledger.append(connection, endings(connection, ledger), now)
    return Reconciled(tuple(missing), tuple(sentences))


def _is_open(request: Held | None) -> bool:
    return request is not None and request.phase not in ENDED


def _told_of_missing(missing: dict[Key, Standing]) -> Iterator[str]:
    for key, noted in missing.items():
        what = told(scopes_in(noted.asked))
        yield (
            f"the ledger holds deletion {key.request_id} of {what} and the database does not: that "
            "is barred, the release withdrawn and the deletion queued again"
        )
        if noted.lifted:
            yield from _readmitted(scopes_in(noted.asked))


def _told_of_known(ledger: Ledger, known: dict[Key, Held]) -> Iterator[str]:
    for key, noted in ledger.standings.items():
        request = known.get(key)
        if request is None or not request.barred:
            continue
        if noted.lifted == CANCELLED:
            yield (
                f"deletion {key.request_id} of {request.what} was cancelled after this "
                "state was saved, and goes on; cancel it again if it should not"
            )
        elif noted.lifted:
            yield from _readmitted(scopes_in(noted.asked))
        elif noted.completed and _is_open(request):
            yield (
                f"deletion {key.request_id} of {request.what} had completed after this "
                "state was saved; it is done again"
            )


def _readmitted(wanted: Iterable[Scope]) -> Iterator[str]:
    for scope in wanted:
        if scope.kind is ScopeKind.CLIENT:
            yield (
                f"client {scope.client} was readmitted after this state was saved and is barred "
                f"again; `fednot clients readmit {scope.client}` lifts that"
            )
