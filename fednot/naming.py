"""What names may look like, the same on both sides."""

from __future__ import annotations

import re
from typing import Final

CLIENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
JOB_ID: Final = re.compile(r"job-[0-9a-f]{12}")


def one_line(text: str, most: int) -> str:
    """Text from another machine, fit for a log: on one line, printable, and not too long."""
    folded = " ".join(text.split())
    return "".join(letter if letter.isprintable() else "?" for letter in folded)[:most]
