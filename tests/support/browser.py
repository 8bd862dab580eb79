"""What a browser says to the console, by hand and over a real socket."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from urllib.parse import urlencode

from fednot.identity.folder import read_credentials

PATIENCE = 20.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def proof(self) -> str:
        """What the page's form sends back."""
        return self.hidden("proof")

    def hidden(self, name: str) -> str:
        found = re.search(f'name="{name}" value="([^"]*)"', self.text)
        assert found, f"no field {name} in {self.text}"
        return found[1]


@dataclass
class Browser:
    """Keeps a cookie; trusts the authority of `trust`, in plaintext without one."""

    port: int
    trust: Path | None = None
    identity: Path | None = None
    cookie: str = ""
    sends: dict[str, str] = field(default_factory=dict)

    async def get(self, path: str, **headers: str) -> Answer:
        return await asyncio.to_thread(self.ask, "GET", path, None, headers)

    async def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        return await asyncio.to_thread(self.ask, "POST", path, urlencode(fields), headers)

    def ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> Answer:
        connection = self._connection()
        sent = {name.replace("_", "-"): value for name, value in (self.sends | headers).items()}
        if self.cookie:
            sent["Cookie"] = f"__Host-fednot={self.cookie}"
        if body is not None:
            sent.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.request(method, path, body, sent)
            return self._answer(connection.getresponse())
        finally:
            connection.close()

    def _answer(self, response: HTTPResponse) -> Answer:
        headers = {name.lower(): value for name, value in response.getheaders()}
        given = re.match("__Host-fednot=([^;]*)", headers.get("set-cookie", ""))
        if given:
            self.cookie = given[1].strip('"')
        return Answer(response.status, headers, response.read().decode())

    def _connection(self) -> HTTPConnection:
        if self.trust is None:
            return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        context = ssl.create_default_context(cadata=self.trust.read_text())
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.identity is not None:
            read_credentials(self.identity)
            context.load_cert_chain(self.identity / "cert.pem", self.identity / "key.pem")
        return HTTPSConnection("127.0.0.1", self.port, timeout=PATIENCE, context=context)
