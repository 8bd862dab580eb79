"""A database that another server has taken: whoever asks to be told of it is, whenever it asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Connection
from support.state import BY_TEST

from server.state.database import Database, StateLostError


async def test_a_loss_before_anybody_asks_to_be_told_is_told_at_once(tmp_path: Path) -> None:
    """As between the start of the listeners and the moment from which a loss ends the server."""
    database, told = Database(tmp_path / "state.sqlite3"), []

    def lose(_: Connection) -> None:
        raise StateLostError("another server has it")

    with pytest.raises(StateLostError):
        await database.write(BY_TEST, lose)
    database.when_lost(lambda: told.append(True))
    assert told == [True]
    database.close()
