"""The one way in which processes log: records of `logging`, rendered by structlog to stderr.

A line has an event, which is a sentence for people, and fields beside it (`extra` of a record, and
what is bound to the running task, such as the call id). JSON has one object for each line; for
people there is one line too, with an exception indented below it. Control characters are taken out,
since much of what is told comes from other machines.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import Processor

Format = Literal["auto", "json", "human"]
Level = Literal["debug", "info", "warning", "error"]

_STAMPED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.format_exc_info,
]

_OF_OTHER_HANDLERS: Final = ("message", "asctime")
"""What a formatter of `logging` leaves with a record."""

log = logging.getLogger("fednot")


class _Handler(logging.StreamHandler[TextIO]):
    """One process has one of them; what comes once its stream is closed is lost."""

    def emit(self, record: logging.LogRecord) -> None:
        if not self.stream.closed:
            super().emit(record)


def set_up(level: str, format_: str = "auto", stream: TextIO | None = None) -> None:
    """Logs records of a level and above to a stream, stderr by default, from now on.

    `auto` is for people on a terminal and JSON elsewhere, as in containers. An exception that
    nobody catches is logged, too.
    """
    to = stream or sys.stderr
    is_terminal = to.isatty()
    if format_ == "json" or (format_ == "auto" and not is_terminal):
        rendered: list[Processor] = [structlog.processors.JSONRenderer(default=str)]
    else:
        colours = is_terminal and not os.environ.get("NO_COLOR")
        rendered = [_indented, structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=0)]
    handler = _Handler(to)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_STAMPED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _ordered,
                _printable,
                *rendered,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [each for each in root.handlers if not isinstance(each, _Handler)]
    root.addHandler(handler)
    root.setLevel(level.upper())
    sys.excepthook = _uncaught


def printable(text: str) -> str:
    """The text without control characters, on one line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _ordered(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> dict[str, Any]:
    first = ("timestamp", "level", "logger", "event", "call_id")
    return {key: line[key] for key in first if line.get(key)} | {
        key: value for key, value in line.items() if key not in (*first, *_OF_OTHER_HANDLERS)
    }


def _printable(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> dict[str, Any]:
    """Each value but the exception on one line; a list's strings are shown by their repr."""
    plain = (int, float, list, tuple, dict, type(None))
    return {
        key: value if key == "exception" or isinstance(value, plain) else printable(str(value))
        for key, value in line.items()
    }


def _indented(_logger: Any, _name: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception whose lines cannot be taken for lines of the log."""
    if line.get("exception"):
        rows = str(line["exception"]).splitlines()
        line["exception"] = "\n".join(f"  | {printable(row)}" for row in rows)
    return line


def _uncaught(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    log.critical("ended by an error that nobody caught", exc_info=(kind, error, traceback))
