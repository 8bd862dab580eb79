"""The two daemons and their commands, each with the settings that it reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from client.forget_settings import FORGET, ForgetSettings
from client.settings import PREFIX, ClientSettings
from fednot.daemon_completion import COMPLETION, CompletionSettings
from fednot.setting_flags import POSITIONAL
from fednot.settings import Settings
from server.maintenance import commands
from server.settings import ENVIRONMENT_PREFIX, ServerSettings


@dataclass(frozen=True)
class Program:
    """A command line of a daemon; `prefix` begins its variables, and `verb` is "" for serving."""

    name: str
    verb: str
    kind: type[Settings]
    prefix: str

    @property
    def title(self) -> str:
        """How it is called: `fednot-server backup`."""
        return f"{self.name} {self.verb}".strip()

    @property
    def usage(self) -> str:
        """The command line in short."""
        places = [
            name.upper()
            for name, field in self.kind.model_fields.items()
            if field.json_schema_extra == POSITIONAL
        ]
        return " ".join([self.title, *places, "[options]"])


PROGRAMS: Final = (
    Program("fednot-server", "", ServerSettings, ENVIRONMENT_PREFIX),
    Program("fednot-server", "backup", commands.BackupSettings, ENVIRONMENT_PREFIX),
    Program("fednot-server", "restore", commands.RestoreSettings, ENVIRONMENT_PREFIX),
    Program("fednot-server", "fsck", commands.FsckSettings, ENVIRONMENT_PREFIX),
    Program("fednot-server", "renew-ledger", commands.RenewSettings, ENVIRONMENT_PREFIX),
    Program("fednot-server", COMPLETION, CompletionSettings, ENVIRONMENT_PREFIX),
    Program("fednot-client", "", ClientSettings, PREFIX),
    Program("fednot-client", FORGET, ForgetSettings, PREFIX),
    Program("fednot-client", COMPLETION, CompletionSettings, PREFIX),
)
"""A test holds that no command is missing."""
