"""Links and sessions by a clock of the test."""

from __future__ import annotations

import pytest

from fednot.errors import FednotError
from server.console.sessions import (
    IDLE_SECONDS,
    LINK_SECONDS,
    MOST_OF_ONE,
    SESSION_SECONDS,
    SessionDesk,
)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(clock: Clock) -> SessionDesk:
    return SessionDesk(clock)


def test_a_link_is_good_once_and_for_two_minutes(desk: SessionDesk, clock: Clock) -> None:
    used, old = desk.link(b"pem", "officer/dora"), desk.link(b"pem", "officer/dora")
    secret = desk.trade(used).secret
    assert desk.certificate_of(secret, by_hand=True) == b"pem"
    with pytest.raises(FednotError, match="used before"):
        desk.trade(used)
    clock.now = LINK_SECONDS
    with pytest.raises(FednotError, match="older than 2 minutes"):
        desk.trade(old)


def test_a_session_ends_by_time_and_when_nobody_uses_it(desk: SessionDesk, clock: Clock) -> None:
    kept = desk.trade(desk.link(b"pem", "officer/dora")).secret
    left = desk.trade(desk.link(b"pem", "officer/dora")).secret
    for _ in range(int(SESSION_SECONDS / IDLE_SECONDS * 2) - 1):
        clock.now += IDLE_SECONDS / 2
        assert desk.certificate_of(kept, by_hand=True) == b"pem"
        found = desk.certificate_of(left, by_hand=False)
        assert (found is None) is (clock.now >= IDLE_SECONDS), "a refreshing page is nobody"
    clock.now = SESSION_SECONDS
    assert desk.certificate_of(kept, by_hand=True) is None


def test_the_oldest_session_of_one_makes_room_and_others_stay(desk: SessionDesk) -> None:
    other = desk.trade(desk.link(b"other", "auditor/ada")).secret
    made = [desk.trade(desk.link(b"pem", "officer/dora")).secret for _ in range(MOST_OF_ONE + 1)]
    assert desk.certificate_of(made[0], by_hand=True) is None
    assert desk.certificate_of(made[1], by_hand=True) == b"pem"
    assert desk.certificate_of(other, by_hand=True) == b"other"


def test_only_the_newest_links_of_one_are_good(desk: SessionDesk) -> None:
    made = [desk.link(b"pem", "officer/dora") for _ in range(MOST_OF_ONE + 1)]
    with pytest.raises(FednotError):
        desk.trade(made[0])
    assert desk.trade(made[1]).secret
    assert all(code not in repr(vars(desk)) for code in made)
