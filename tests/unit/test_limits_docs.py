"""The table of docs/limits.md says what the code does: each number, each flag, each reason."""

from __future__ import annotations

import re

import pytest
from support.pages import ROOT

from fednot import http_status, wire
from fednot.errors import Reason
from server import listeners
from server.console import forms, protocol, sessions
from server.console import listener as console
from server.data_channel import connection as data
from server.data_channel import listener as data_listener
from server.limits import callers, messages, rates
from server.listeners import ENROLMENT_OPTIONS
from server.services import enrolment, guard
from server.settings import ServerSettings
from server.uploads import upload

KI, MI = 1 << 10, 1 << 20
UNITS = {"KiB": KI, "MiB": MI, "kB/s": 1000, "bytes/s": 1}
QUANTITY = re.compile(r"(\d[\d,]*)(?: (KiB|MiB|kB/s|bytes/s))?")
FLAG = re.compile(r"`--([a-z-]+)`")
REASON = re.compile(r"`([A-Z_]{4,})`")
GRPCS_OWN = {"RESOURCE_EXHAUSTED", "UNIMPLEMENTED", "UNAVAILABLE"}
OF_ENROLMENT = dict(ENROLMENT_OPTIONS)
NAMED_OTHERWISE = {"partial_expiry", "max_update"}
"""Settings whose default the table does not tell as a number."""

CONSTANTS: dict[str, tuple[float, ...]] = {
    "a call that is no upload, no join and no masking": (messages.CONTROL_BYTES,),
    "a call of a masked round": (messages.ROSTER_BYTES,),
    "a message to the port of enrolment": (OF_ENROLMENT[listeners.MESSAGE_LENGTH],),
    "a join": (messages.CONTROL_BYTES,),
    "connections to a listener": (2000, data_listener.MOST_CONNECTIONS),
    "metadata of a call": (guard.MOST_METADATA,),
    "connections to the port of enrolment": (
        listeners.ENROLMENT_CONNECTIONS,
        OF_ENROLMENT["grpc.max_connection_idle_ms"] / 1000,
        OF_ENROLMENT["grpc.max_connection_age_ms"] / 1000,
    ),
    "the slowest upload": (1000, upload.PACE_SECONDS),
    "silence in an upload": (wire.MESSAGE_SECONDS,),
    "a whole upload or download": (wire.SLOWEST_BYTES_PER_SECOND,),
    "a TLS handshake": (data.HANDSHAKE_SECONDS,),
    "a connection without a call": (data.IDLE_SECONDS,),
    "HTTP (/metrics, /healthz)": (
        http_status.MAX_REQUESTS_AT_ONCE,
        http_status.READ_TIMEOUT,
        http_status.REQUEST_DEADLINE,
    ),
    "the console": (
        console.MOST_CONNECTIONS,
        console.HANDSHAKE_SECONDS,
        protocol.CONNECTION_SECONDS,
        protocol.MOST_HEADERS,
        forms.MOST_BYTES,
        sessions.MOST_OF_ONE,
    ),
}


def rows(text: str) -> list[list[str]]:
    """The cells of the table, each row's first one without its link."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [[re.sub(r"\[(.*?)\]\(.*?\)", r"\1", first), *rest] for first, *rest in cells]


PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
ROWS = rows(PAGE)


def quantities(cell: str) -> list[float]:
    """The numbers of a cell, in bytes and seconds."""
    return [
        int(number.replace(",", "")) * UNITS.get(unit, 1) for number, unit in QUANTITY.findall(cell)
    ]


@pytest.mark.parametrize("row", [row for row in ROWS if row[1]], ids=lambda row: row[1])
def test_a_flags_default_is_the_one_of_its_setting(row: list[str]) -> None:
    [flag] = FLAG.findall(row[1])
    name = flag.replace("-", "_")
    default = ServerSettings.model_fields[name].default
    assert name in NAMED_OTHERWISE or quantities(row[2])[0] == default


@pytest.mark.parametrize("what", CONSTANTS)
def test_a_limit_without_a_flag_is_the_one_of_the_code(what: str) -> None:
    [cell] = [default for first, _, default, _ in ROWS if first == what]
    assert set(CONSTANTS[what]) == set(quantities(cell))


def test_every_limit_that_can_be_set_is_in_the_table() -> None:
    named = {flag.replace("-", "_") for row in ROWS for flag in FLAG.findall(row[1])}
    settings = {
        name
        for name in ServerSettings.model_fields
        if re.search(r"^max_(?!time)|_per_(minute|identity|connection)$|^slowest_", name)
    }
    assert len(settings) >= 10
    assert settings <= named


def test_every_flag_and_reason_that_the_page_names_is_there() -> None:
    flags = {flag.replace("-", "_") for flag in FLAG.findall(PAGE)} - {"memory", "insecure"}
    assert flags - set(ServerSettings.model_fields) == set()
    assert set(REASON.findall(PAGE)) - GRPCS_OWN - set(Reason) == set()


def test_the_other_numbers_of_the_page() -> None:
    assert f"At most {rates.MOST_BUCKETS:,} identities" in PAGE
    assert f"come again in {callers.CONNECTION_RETRY:.0f} s" in PAGE
    assert f"come again in {upload.SLOW_RETRY:.0f} s" in PAGE
    assert f"and {enrolment.ENROLMENTS_AT_ONCE} at once" in PAGE
    assert listeners.IDLE_SECONDS == data.IDLE_SECONDS
    assert OF_ENROLMENT["grpc.max_concurrent_streams"] == 1
