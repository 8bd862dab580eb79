"""What browsers post: bounded, and only from pages of this console."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

MOST_BYTES: Final = 16 << 10
MOST_FIELDS: Final = 32
PROOF: Final = "proof"
_FORM: Final = "application/x-www-form-urlencoded"


class BadFormError(ValueError):
    """What was posted is not taken: `status` is that of HTTP, the text a sentence for people."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status: Final = status


class Proofs:
    """Proofs that a form came with a page of this console for the same reader.

    Another site can make a browser post, but not read what a page holds.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def of(self, whom: str) -> str:
        """The proof of a session or certificate."""
        return hmac.new(self._key, whom.encode(), hashlib.sha256).hexdigest()


async def posted(request: Request) -> Mapping[str, str]:
    """The fields of a form. Raises BadFormError if it is none, too large, or from another site."""
    check_origin(request)
    if request.headers.get("content-type", "").partition(";")[0].strip() != _FORM:
        raise BadFormError(415, "this is not the form of a page; go back and send it again")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise BadFormError(413, f"the form has more than {MOST_BYTES} bytes; write less")
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            max_num_fields=MOST_FIELDS,
            errors="strict",
        )
    except ValueError as error:
        raise BadFormError(400, "the form cannot be read; go back and send it again") from error
    return {name: value.strip() for name, value in pairs}


def check_proof(form: Mapping[str, str], proof: str) -> None:
    """Raises BadFormError unless the form came with a page for the same reader."""
    if not hmac.compare_digest(form.get(PROOF, "").encode(), proof.encode()):
        raise BadFormError(
            403, "the form does not come from a page of this session; open the page anew"
        )


def check_origin(request: Request) -> None:
    """Raises BadFormError if a browser says that another site has it post."""
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    site = request.headers.get("sec-fetch-site", "same-origin")
    if origin not in (None, own) or site not in ("same-origin", "none"):
        raise BadFormError(403, "another site sent this form; use the pages of the console")
