"""Where a server's state is."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from fednot.settings import Settings
from server.state.connecting import url_of
from server.state.stores import S3


class StateSettings(Settings):
    """State."""

    state_dir: Path = Field(Path(".fednot-server"), description="where state and versions are kept")
    database: str = Field(
        "",
        repr=False,
        description="postgresql+psycopg://USER:PASSWORD@HOST/DATABASE; empty for SQLite in "
        "--state-dir",
    )
    versions: str = Field(
        "",
        description="where versions are kept instead of STATE/versions: a directory, or "
        "s3://BUCKET/PREFIX",
    )
    ledger: Path | None = Field(
        None,
        description="file of the ledger of deletions, best on another disk; "
        "by default ledger.jsonl in the state directory",
    )

    @field_validator("ledger", mode="before")
    @classmethod
    def _empty_is_default(cls, value: object) -> object:
        return value or None

    @field_validator("database")
    @classmethod
    def _known_database(cls, text: str) -> str:
        if text:
            url_of(text)
        return text

    @field_validator("versions")
    @classmethod
    def _known_store(cls, place: str) -> str:
        scheme, separator, rest = place.partition("://")
        if separator and (scheme != "s3" or not rest.strip("/")):
            raise ValueError(f"{place} is neither a directory nor s3://BUCKET/PREFIX")
        return place

    @property
    def database_place(self) -> Path | str:
        """What `Database` opens."""
        return self.database or self.state_dir / "state.sqlite3"

    @property
    def local_folders(self) -> tuple[Path, ...]:
        """The folders that the server writes to."""
        if self.versions.startswith(S3):
            return (self.state_dir,)
        return (self.state_dir, Path(self.versions_place))

    @property
    def versions_place(self) -> str:
        """Where the model versions are kept: a path or an S3 URL."""
        return self.versions or str(self.state_dir / "versions")

    @property
    def kept_updates_place(self) -> Path:
        """Where updates are that methods need; they are in no backup."""
        return self.state_dir / "updates"

    @property
    def ledger_path(self) -> Path:
        """Where the ledger is."""
        return self.ledger or self.state_dir / "ledger.jsonl"
