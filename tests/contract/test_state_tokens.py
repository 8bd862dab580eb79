"""Enrolment tokens in the state: one use, which the same key may repeat for some minutes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, func, select
from support.state import BY_TEST, refusal_of

from fednot.errors import Reason
from server.state import token_rows
from server.state.database import Database
from server.state.schema import enrolment_tokens

T = TypeVar("T")
Run = Callable[[Callable[[Connection], T]], T]

SECRET, OTHER = "a" * 64, "b" * 64


def made(c: Connection, secret: str = SECRET, *, now: float = 100.0, ends: float = 200.0) -> None:
    token_rows.create(c, secret, "c1", now=now, expires_at=ends)


def test_a_token_names_its_client_and_is_not_used_by_a_look(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c)
        assert token_rows.find(c, SECRET, 150.0) == token_rows.KeptToken("c1", 100.0, used=False)
        assert not token_rows.find(c, SECRET, 150.0).used
        assert token_rows.use(c, SECRET, "key", 150.0)
        assert token_rows.find(c, SECRET, 150.0).used

    run(command)


def test_one_key_may_repeat_its_use_and_another_may_not(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c)
        assert token_rows.use(c, SECRET, "key", 110.0), "the first use"
        assert not token_rows.use(c, SECRET, "key", 120.0)
        told = refusal_of(lambda: token_rows.use(c, SECRET, "another key", 130.0))
        assert told == (Reason.TOKEN_USED, {"client": "c1"})
        assert not token_rows.use(c, SECRET, "key", 140.0)
        row = c.execute(select(enrolment_tokens)).one()
        assert (row.used_at, row.used_key) == (110.0, "key")

    run(command)


def test_a_use_is_repeated_within_minutes_or_not_at_all(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c, ends=10_000.0)
        assert token_rows.use(c, SECRET, "key", 110.0)
        last = 110.0 + token_rows.REPEAT_SECONDS
        assert not token_rows.use(c, SECRET, "key", last)
        told = refusal_of(lambda: token_rows.use(c, SECRET, "key", last + 0.1))
        assert told == (Reason.TOKEN_USED, {"client": "c1"})

    run(command)


def test_a_new_token_withdraws_the_clients_unused_ones(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c)
        token_rows.create(c, "d" * 64, "c2", now=100.0, expires_at=200.0)
        made(c, OTHER)
        assert (
            refusal_of(lambda: token_rows.use(c, SECRET, "key", 150.0))[0] == Reason.INVALID_TOKEN
        )
        assert token_rows.use(c, "d" * 64, "key", 150.0), "that of another client stays"
        assert token_rows.use(c, OTHER, "key", 150.0)
        made(c, "e" * 64)
        assert not token_rows.use(c, OTHER, "key", 150.0), "a lost reply is asked for again"

    run(command)


def test_a_token_ends_with_its_time_for_every_key(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c)
        token_rows.use(c, SECRET, "key", 200.0)
        for call in (
            lambda: token_rows.use(c, SECRET, "key", 200.1),
            lambda: token_rows.use(c, SECRET, "another key", 200.1),
            lambda: token_rows.find(c, SECRET, 200.1),
        ):
            assert refusal_of(call) == (Reason.TOKEN_EXPIRED, {"client": "c1"})

    run(command)


def test_a_secret_that_was_never_given_out_is_invalid(run: Run[None]) -> None:
    def command(c: Connection) -> None:
        made(c)
        told = refusal_of(lambda: token_rows.use(c, OTHER, "key", 150.0))
        assert told == (Reason.INVALID_TOKEN, {})
        assert refusal_of(lambda: token_rows.find(c, OTHER, 150.0))[0] == Reason.INVALID_TOKEN

    run(command)


def test_a_use_is_remembered_by_the_next_process(open_database: Callable[[], Database]) -> None:
    first = open_database()
    first.write_now(BY_TEST, made)
    first.write_now(BY_TEST, lambda c: token_rows.use(c, SECRET, "key", 150.0))
    first.close()
    second = open_database()
    told = refusal_of(
        lambda: second.write_now(BY_TEST, lambda c: token_rows.use(c, SECRET, "another key", 150.0))
    )
    second.close()
    assert told[0] == Reason.TOKEN_USED


def test_tokens_that_ended_long_ago_are_dropped(run: Run[int]) -> None:
    def command(c: Connection) -> int:
        made(c)
        token_rows.use(c, SECRET, "key", 150.0)
        late = 200.0 + token_rows.KEPT_SECONDS
        made(c, OTHER, now=late, ends=late + 1)
        token_rows.use(c, OTHER, "key", late)
        assert refusal_of(lambda: token_rows.use(c, SECRET, "key", late))[0] == Reason.TOKEN_EXPIRED
        made(c, "c" * 64, now=late + 1, ends=late + 2)
        assert refusal_of(lambda: token_rows.use(c, SECRET, "key", late))[0] == Reason.INVALID_TOKEN
        return int(c.execute(select(func.count()).select_from(enrolment_tokens)).scalar_one())

    assert run(command) == 2
