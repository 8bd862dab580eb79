"""A backup on the disk: a folder with the rows, the model files, and a page that tells of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from fednot.audit_chain import Head
from server.state import durable
from server.state.database import StateError

FORMAT: Final = 1
PAGE: Final = "backup.json"
ROWS: Final = "state.sqlite3"
VERSIONS: Final = "versions"
_PIECE: Final = 1 << 20


@dataclass(frozen=True)
class Page:
    """What a backup holds; `made_at` in seconds since the epoch, `rows_sha256` of the rows' file.

    `versions` are the sha256 of the models, by number of the version. The ledger's head is the
    newest entry that the state had seen.
    """

    software: str
    schema: str
    state_id: str
    made_at: float
    ledger_sequence: int
    ledger_hash: str
    current_version: int
    released_version: int
    rows: Mapping[str, int]
    rows_sha256: str
    versions: Mapping[str, str]
    fednot_backup: int = FORMAT

    @property
    def ledger_head(self) -> Head:
        """The ledger's newest entry that the state had seen; the hash is "" if there was none."""
        return Head(self.ledger_sequence, self.ledger_hash)


def write_page(folder: Path, page: Page) -> None:
    """Writes what a backup holds, as the last of its files."""
    with (folder / PAGE).open("w", encoding="utf-8") as file:
        json.dump(asdict(page), file, indent=2)
        file.write("\n")
        file.flush()
        durable.sync(file.fileno(), "backup-page")


def read_page(folder: Path) -> Page:
    """Reads what a backup holds, and compares the rows' file with it.

    Raises StateError if it is none, or is damaged.
    """
    try:
        values = json.loads((folder / PAGE).read_bytes())
        if values["fednot_backup"] != FORMAT:
            raise StateError(f"{folder} is a backup of format {values['fednot_backup']}")
        page = Page(**values)
        changed = sha256_of_file(folder / ROWS) != page.rows_sha256
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StateError(f"{folder} is not a backup by `fednot-server backup`: {error}") from error
    if changed:
        raise StateError(f"{folder / ROWS} is not the file that the backup was made with")
    return page


def sha256_of_file(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
