"""The client's settings: flags, FEDNOT_CLIENT_* variables, a TOML file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from fednot.address import is_loopback, split
from fednot.channel import DEFAULT_ADDRESS
from fednot.errors import CATALOGUE, Reason
from fednot.log_settings import LogSettings, TraceSettings
from fednot.naming import CLIENT_NAME
from fednot.settings import Settings

PROGRAM: Final = "fednot-client"
PREFIX: Final = "FEDNOT_CLIENT_"

LEAST_NOISE: Final = 0.01
_DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d{1,3})?")


class TrainingSettings(Settings):
    """The Task and its training."""

    task: str = Field(description="the Task: FILE.py:Class or package.module:Class")
    task_arg: tuple[str, ...] = Field(
        default=(), description="KEY=VALUE for the Task's constructor; may be given again"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    torch_threads: int = Field(default=1, ge=1, le=1024, description="CPU threads for torch")
    evaluate_forgotten: bool = Field(
        default=True,
        description="evaluate forgotten samples for the verification of their deletion, until it "
        "has ended",
    )


class ConnectionSettings(Settings):
    """The server, and who this client is to it."""

    server: str = Field(default=DEFAULT_ADDRESS, description="HOST:PORT of the server to dial")
    identity: Path | None = Field(
        default=None, description="folder of this client's certificate, key and trusted authority"
    )
    name: str | None = Field(
        default=None,
        description="this client's name, the same in every run; over TLS its certificate's",
    )
    insecure: bool = Field(default=False, description="dial in plaintext, loopback only")
    poll_wait: float = Field(
        default=20.0, gt=0, le=30, description="seconds that the server may hold a poll for work"
    )


class PlaceSettings(Settings):
    """This machine."""

    state_dir: Path = Field(
        default=Path(".fednot-client"),
        description="directory of what this client keeps (its name); each needs its own",
    )
    http_address: str = Field(
        default="127.0.0.1:9465", description="HOST:PORT of /metrics and /healthz; '' turns it off"
    )


class UpdateSettings(Settings):
    """How updates travel."""

    codec: Literal["none", "bf16", "fp16", "int8", "topk"] = Field(
        default="none",
        description="encoding of updates, if the server allows it: none, bf16, fp16, int8 or topk",
    )
    data_channel: Literal["auto", "never"] = Field(
        default="auto", description="auto: the server's data channel if it has one; never: gRPC"
    )
    secure_aggregation: Literal["auto", "require"] = Field(
        default="auto",
        description="auto: mask updates if the server asks for it; require: send no other",
    )


class PrivacySettings(Settings):
    """Differential privacy."""

    dp_noise: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="noise multiplier of DP-SGD; 0 trains without noise",
    )
    dp_clip: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        description="L2 norm to which DP-SGD clips each sample's gradient",
    )
    dp_delta: float = Field(
        default=1e-5, gt=0, lt=1, description="delta of the differential privacy that is reported"
    )
    dp_epsilon: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="epsilon at which this client stops training; 0 for never",
    )


class ClientSettings(
    TrainingSettings,
    ConnectionSettings,
    PlaceSettings,
    UpdateSettings,
    PrivacySettings,
    TraceSettings,
    LogSettings,
):
    """Trains a federation's model on the data of this machine, which never leaves it.

    `fednot-client forget` bars samples and asks for their deletion, and has a --help of its own.
    """

    @field_validator("name")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        if name is not None and not CLIENT_NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no client name; {CATALOGUE[Reason.INVALID_CLIENT_NAME].remedy}"
            )
        return name

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"{device!r} is no device; use auto, cpu, cuda or cuda:N")
        return device

    @field_validator("server", "http_address")
    @classmethod
    def _address(cls, address: str) -> str:
        if address:
            split(address)
        return address

    @field_validator("server")
    @classmethod
    def _some_server(cls, server: str) -> str:
        if not server:
            raise ValueError("write the server's HOST:PORT")
        return server

    @model_validator(mode="after")
    def _noise_and_its_limit(self) -> Self:
        if 0 < self.dp_noise < LEAST_NOISE:
            raise ValueError(f"--dp-noise below {LEAST_NOISE} protects nobody; 0 turns it off")
        if self.dp_epsilon and not self.dp_noise:
            raise ValueError("--dp-epsilon limits training with noise; give --dp-noise, too")
        return self

    @model_validator(mode="after")
    def _who_dials(self) -> Self:
        if self.identity is not None and self.insecure:
            raise ValueError("identity and insecure exclude each other; keep one")
        if self.identity is None and not self.insecure:
            raise ValueError(
                "give --identity FOLDER, which `fednot certs enroll` makes, or --insecure for a "
                "plaintext server on this machine"
            )
        if self.insecure and self.secure_aggregation == "require":
            raise ValueError(
                "--secure-aggregation require needs --identity FOLDER: its key signs what the "
                "masks are made of"
            )
        if self.insecure and not is_loopback(self.server):
            raise ValueError(
                f"--insecure dials in plaintext, and {self.server} is not on this machine; give "
                "--identity FOLDER"
            )
        if self.insecure and self.name is None:
            raise ValueError("give --name: only a certificate would tell it")
        return self
