"""Pages from templates, and the few files beside them; all are read when the console starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import HTMLResponse

import fednot
from fednot import sentences
from fednot.v1 import deletion_pb2
from server.console.chart import chart_of
from server.records import Caller
from server.services import permissions

_TYPES: Final = {
    "console.css": "text/css; charset=utf-8",
    "console.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

_SECTION_OF: Final = {
    **dict.fromkeys(("deletion", "form", "review", "decision"), "deletions"),
    "approval": "approvals",
}
"""Below which page of the navigation a page stands."""


@dataclass(frozen=True)
class Reader:
    """Who reads a page: the caller, by which certificate, over which connection.

    `proof` goes into the page's forms and comes back from them; `secret` is that of the session, ""
    without one.
    """

    caller: Caller
    certificate: bytes | None
    connection: str
    proof: str
    secret: str = ""

    def may(self, method: str) -> bool:
        """Whether the reader's role may make a call."""
        return method in permissions.permitted(self.caller)

    @property
    def decides(self) -> bool:
        """Whether the console has the form of deletion for the reader: an officer, or plaintext."""
        return self.caller.role in ("officer", None)


def static_files() -> Mapping[str, tuple[bytes, str]]:
    """The content and the type of each file that is served as it is, by name."""
    folder = files("server.console") / "static"
    return {name: ((folder / name).read_bytes(), kind) for name, kind in _TYPES.items()}


class Pages:
    """Renders templates. Whatever a page is given is escaped."""

    def __init__(self) -> None:
        self._environment = Environment(
            loader=PackageLoader("server.console", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._environment.globals.update(
            say=sentences,
            chart_of=chart_of,
            version=fednot.__version__,
            section_of=_SECTION_OF,
        )
        self._environment.filters["time"] = _time
        self._environment.filters["outcome"] = _outcome

    def html(self, name: str, reader: Reader | None, code: int = 200, **given: Any) -> HTMLResponse:
        """A page; `reader` is None for one that everybody may see."""
        template = self._environment.get_template(f"{name}.html.j2")
        return HTMLResponse(template.render(page=name, reader=reader, **given), code)


def _time(stamp: Timestamp) -> Markup | str:
    """A time for people, in UTC to the second, and for programs; a dash if it is not set."""
    if not stamp.ByteSize():
        return "-"
    exact = datetime.fromtimestamp(stamp.seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Markup('<time datetime="{}">{}</time>').format(exact, sentences.moment(stamp))


def _outcome(value: int) -> str:
    return sentences.word(deletion_pb2.AttemptOutcome.Name, "ATTEMPT_OUTCOME_", value)
