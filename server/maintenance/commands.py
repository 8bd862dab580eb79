"""The commands of `fednot-server` beside serving: settings in, lines and an exit code out."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

from pydantic import Field
from sqlalchemy.exc import DatabaseError

from fednot import daemon_completion, logs
from fednot.daemon_completion import COMPLETION, CompletionSettings
from fednot.log_settings import LogSettings
from fednot.setting_flags import POSITIONAL
from fednot.settings import load_or_exit
from server.maintenance.backup import back_up
from server.maintenance.fsck import check
from server.maintenance.renewal import forget_lost_ledger
from server.maintenance.restore import restore
from server.settings import ENVIRONMENT_PREFIX, ServerSettings, StateSettings
from server.state.database import StateError
from server.state.model_store import ModelStoreError

DONE: Final = 0
NOT_DONE: Final = 1
STATE_ERROR: Final = 3


class CommandSettings(StateSettings, LogSettings):
    """Output."""

    format: Literal["text", "json"] = Field("text", description="lines for people, or one of JSON")


class BackupSettings(CommandSettings):
    """Copies the state into a new folder, while its server runs or not, but not the ledger."""

    target_dir: Path = Field(description="a folder to be made", json_schema_extra=POSITIONAL)


class RestoreSettings(CommandSettings):
    """Brings a backup back into an empty state, with the federation's ledger, and no server."""

    source_dir: Path = Field(description="a folder by backup", json_schema_extra=POSITIONAL)


class FsckSettings(CommandSettings):
    """Checks the state, the versions, the audit and the ledger; nothing is written."""


class RenewSettings(CommandSettings):
    """Has the next start of the server write the ledger anew, after it was lost for good. What only
    the lost one held is lost: never do so on a state that was restored, or copied back.
    """


S = TypeVar("S", bound=CommandSettings)


def run_backup(arguments: Sequence[str]) -> int:
    """Runs `fednot-server backup`."""
    settings = _settings(BackupSettings, "backup", arguments)

    def work() -> int:
        page = back_up(settings, settings.target_dir)
        count = len(page.versions)
        text = (
            f"{settings.target_dir}: version {page.current_version} is current, {count} model "
            f"files, {sum(page.rows.values())} rows\n"
            f"not in it, by design: the ledger {settings.ledger_path}, which a restore needs"
        )
        return _say(settings, asdict(page), text)

    return _guarded("backup", work)


def run_restore(arguments: Sequence[str]) -> int:
    """Runs `fednot-server restore`."""
    settings = _settings(RestoreSettings, "restore", arguments)

    def work() -> int:
        found = restore(settings, settings.source_dir)
        requeued = [key.request_id for key in found.reconciled.requeued]
        told = list(found.reconciled.told)
        if found.lost_updates:
            told.append(
                f"{found.lost_updates} kept updates are lost: a backup has none; fed-eraser and "
                "fukd can be asked for once a model was trained anew from its initial version"
            )
        values = {"backup": asdict(found.page), "requeued": requeued, "told": told}
        current = f"restored: version {found.page.current_version} is current"
        return _say(settings, values, "\n".join([*told, current]))

    return _guarded("restore", work)


def run_fsck(arguments: Sequence[str]) -> int:
    """Runs `fednot-server fsck`."""
    settings = _settings(FsckSettings, "fsck", arguments)

    def work() -> int:
        found = check(settings)
        text = "\n".join(f"{each.check}: {each.message}" for each in found) or "clean"
        _say(settings, {"findings": [each._asdict() for each in found]}, text)
        return NOT_DONE if found else DONE

    return _guarded("fsck", work)


def run_renewal(arguments: Sequence[str]) -> int:
    """Runs `fednot-server renew-ledger`."""
    settings = _settings(RenewSettings, "renew-ledger", arguments)

    def work() -> int:
        forget_lost_ledger(settings)
        place = str(settings.ledger_path)
        text = f"the next start writes {place}; make a backup then, for older ones end here"
        return _say(settings, {"ledger": place}, text)

    return _guarded("renew-ledger", work)


def run_completion(arguments: Sequence[str]) -> int:
    """Runs `fednot-server completion`."""
    return daemon_completion.run("fednot-server", ENVIRONMENT_PREFIX, VERBS, arguments)


VERBS: Final[daemon_completion.Verbs] = {
    "": ServerSettings,
    "backup": BackupSettings,
    "restore": RestoreSettings,
    "fsck": FsckSettings,
    "renew-ledger": RenewSettings,
    COMPLETION: CompletionSettings,
}
COMMANDS: Final[Mapping[str, Callable[[Sequence[str]], int]]] = {
    "backup": run_backup,
    "restore": run_restore,
    "fsck": run_fsck,
    "renew-ledger": run_renewal,
    COMPLETION: run_completion,
}


def _settings(kind: type[S], command: str, arguments: Sequence[str]) -> S:
    settings = load_or_exit(
        kind,
        program=f"fednot-server {command}",
        prefix=ENVIRONMENT_PREFIX,
        arguments=arguments,
        others=ServerSettings,
    )
    logs.set_up(settings.log_level, settings.log_format)
    return settings


def _say(settings: CommandSettings, values: Mapping[str, Any], text: str) -> int:
    sys.stdout.write((json.dumps(values) if settings.format == "json" else text) + "\n")
    return DONE


def _guarded(command: str, work: Callable[[], int]) -> int:
    try:
        return work()
    except (StateError, ModelStoreError) as error:
        sys.stderr.write(f"fednot-server {command}: {error}\n")
        return STATE_ERROR
    except (OSError, DatabaseError) as error:
        sys.stderr.write(f"fednot-server {command}: {error}\n")
        return NOT_DONE
