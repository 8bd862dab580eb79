"""Lines of logs: their fields, and that nobody can forge one."""

from __future__ import annotations

import io
import json
import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from client.forgetting import forget
from fednot import calls, logs
from fednot.task import Task
from fednot.v1 import federation_pb2

FORGED = "fine\n2026-01-01 [info] forged\x1b[2J"


def said(format_: logs.Format) -> str:
    """What one line and one exception look like."""
    stream = io.StringIO()
    logs.set_up("info", format_, stream)
    log = logging.getLogger("server.test")
    with calls.bound(calls.Origin("call-1"), job="job-1"):
        log.info("round %d ended: %s", 3, FORGED, extra={"outcome": FORGED, "seconds": 0.5})
        try:
            raise ValueError(FORGED)
        except ValueError:
            log.exception("a step failed")
    log.debug("not told")
    return stream.getvalue()


def test_a_line_of_json_has_its_fields() -> None:
    line, failed = [json.loads(row) for row in said("json").splitlines()]
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "server.test",
        "event": "round 3 ended: fine 2026-01-01 [info] forged [2J",
        "call_id": "call-1",
        "job": "job-1",
        "outcome": "fine 2026-01-01 [info] forged [2J",
        "seconds": 0.5,
    }
    assert failed["event"] == "a step failed"
    assert failed["exception"].startswith("Traceback")
    assert "ValueError: fine" in failed["exception"]


def test_lines_for_people_cannot_be_forged_either() -> None:
    rows = said("human").splitlines()
    told = [row for row in rows if not row.startswith("  | ")]
    assert len(told) == 2
    assert all("call_id=call-1" in row for row in told)
    assert not any("\x1b" in row for row in rows)
    assert any(row.startswith("  | ValueError: fine") for row in rows)


def test_where_there_is_no_terminal_it_is_json() -> None:
    assert json.loads(said("auto").splitlines()[0])["level"] == "info"


def test_an_error_that_nobody_catches_is_a_line() -> None:
    stream = io.StringIO()
    logs.set_up("error", "json", stream)
    error = RuntimeError("lost")
    sys.excepthook(RuntimeError, error, None)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["exception"]) == ("critical", "RuntimeError: lost")


@pytest.mark.parametrize(
    "told", ["", "a" * 65, "a b", 'x","level":"error', "-x", "line\nline", "x\n", "é"]
)
def test_a_call_id_from_outside_must_be_well_formed(told: str) -> None:
    assert calls.of_metadata([(calls.CALL_ID_KEY, told)]) == calls.Origin()
    assert calls.of_message(federation_pb2.Origin(call_id=told)) == calls.Origin()


def test_a_sound_origin_is_taken_as_it_is() -> None:
    parent = f"00-{'a' * 32}-{'b' * 16}-01"
    origin = calls.Origin("ticket-4711.b", parent)
    assert calls.of_metadata(origin.metadata()) == origin
    message = origin.message()
    assert message is not None
    assert calls.of_message(message) == origin
    with calls.bound(origin):
        assert calls.current() == origin
    assert calls.current() == calls.Origin()
    assert calls.checked("x", f"00-{'0' * 32}-{'b' * 16}-01") == calls.Origin("x")


def test_the_error_of_a_task_does_not_tell_the_person(caplog: pytest.LogCaptureFixture) -> None:
    class Index(Task):
        def samples_of(self, subject: str) -> list[str]:
            found: dict[str, list[str]] = {}
            return found[subject]

    tombstones = SimpleNamespace(now=lambda: SimpleNamespace(named=lambda _: ()))
    trainer: Any = SimpleNamespace(task=Index(), tombstones=tombstones)
    order = federation_pb2.ForgetWork(order_id="o", tombstone="t", subject="person-1")
    with pytest.raises(OSError, match="raised KeyError") as raised:
        forget(order, trainer)
    assert "samples_of() failed: KeyError" in caplog.text
    assert "person-1" not in caplog.text + str(raised.value)
