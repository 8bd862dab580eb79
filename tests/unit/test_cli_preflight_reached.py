"""Why a server cannot be reached, and what to do about each cause."""

from __future__ import annotations

import errno
import os
import socket
from typing import Never

import pytest

from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.preflight import reached
from fednot.identity.probing import Deadline

ADDRESS = "fed.example.org:50051"


def failure(error: OSError, monkeypatch: pytest.MonkeyPatch, address: str = ADDRESS) -> CliError:
    def connect(*_: object) -> Never:
        raise error

    monkeypatch.setattr("fednot.identity.probing.connect", connect)
    with pytest.raises(CliError) as told:
        reached.reached(address, Deadline(1))
    assert told.value.code is ExitCode.UNREACHABLE
    return told.value


def of(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def test_a_server_that_listens_for_its_own_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    told = failure(of(errno.ECONNREFUSED), monkeypatch)
    assert told.message == f"no connection to {ADDRESS}: Connection refused"
    assert "--address 0.0.0.0:50051" in told.remedy
    assert "127.0.0.1" in told.remedy


def test_on_the_same_machine_that_cannot_be_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    told = failure(of(errno.ECONNREFUSED), monkeypatch, "localhost:50051")
    assert "0.0.0.0" not in told.remedy


def test_a_firewall_that_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    told = failure(TimeoutError("timed out"), monkeypatch)
    assert told.message.endswith("no answer in time")
    assert "firewall" in told.remedy
    assert "50051" in told.remedy


@pytest.mark.parametrize("number", [errno.ENETUNREACH, errno.EHOSTUNREACH])
def test_a_network_without_a_way_there(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no way to fed.example.org" in failure(of(number), monkeypatch).remedy


def test_anything_else_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told = failure(OSError("odd"), monkeypatch)
    assert "odd" in told.message
    assert ADDRESS in told.remedy


def test_a_dns_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object) -> Never:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr("fednot.identity.probing.resolve", look)
    with pytest.raises(CliError, match="DNS did not answer") as told:
        reached.resolved(ADDRESS, Deadline(1))
    assert "getent hosts fed.example.org" in told.value.remedy
