"""The command line of `fednot-client forget`; it shares the variables FEDNOT_CLIENT_*."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from client.settings import PROGRAM, ClientSettings
from fednot.channel import DEFAULT_ADDRESS
from fednot.daemon_completion import COMPLETION, CompletionSettings, Verbs
from fednot.settings import Settings

FORGET: Final = "forget"
FORGET_PROGRAM: Final = f"{PROGRAM} {FORGET}"


class ForgetSettings(Settings):
    """Bars samples of this client for good and asks the server to forget them.

    It may be called while the client runs, and again: the same samples are the same request.
    """

    ids: str | None = Field(
        default=None, description="file of ids, one a line or a JSON list; - reads standard input"
    )
    subject: str | None = Field(
        default=None, description="key of a person whose samples the Task knows (samples_of)"
    )
    state_dir: Path = Field(
        default=Path(".fednot-client"), description="the client's state directory"
    )
    server: str = Field(default=DEFAULT_ADDRESS, description="HOST:PORT of the server to dial")
    identity: Path | None = Field(
        default=None, description="folder of this client's certificate, key and trusted authority"
    )
    insecure: bool = Field(default=False, description="dial in plaintext, loopback only")
    name: str | None = Field(default=None, description="this client's name, over plaintext")
    task: str | None = Field(
        default=None, description="the Task: with it, ids that no sample has are an error"
    )
    task_arg: tuple[str, ...] = Field(
        default=(), description="KEY=VALUE for the Task's constructor; may be given again"
    )
    timeout: float = Field(default=30.0, gt=0, le=600, description="seconds a call may take")
    format: Literal["table", "json"] = Field(default="table", description="table or json")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if (self.ids is None) == (self.subject is None):
            raise ValueError("give --ids FILE or --subject KEY, one of both")
        if self.subject is not None and self.task is None:
            raise ValueError("--subject needs --task: only the Task knows whose samples are whose")
        return self


VERBS: Final[Verbs] = {"": ClientSettings, FORGET: ForgetSettings, COMPLETION: CompletionSettings}
"""The settings of each verb of this program."""
