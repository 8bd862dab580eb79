"""The server's settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import ByteSize, ConfigDict, Field, field_validator, model_validator

from fednot.address import is_loopback
from fednot.codecs import NAMES, codec_of
from fednot.codecs.topk import DEFAULT_FRACTION
from fednot.errors import FednotError
from fednot.log_settings import LogSettings
from server import exclusions
from server.aggregation import Aggregation, RuleName
from server.federation import Defaults
from server.ladder import rung_of
from server.limits.callers import CallLimits
from server.records import RecoveryPolicy, RoundPolicy, Thresholds, VerificationPolicy
from server.state.connecting import url_of
from server.state.stores import S3
from server.uploads.desk import UploadLimits

ENVIRONMENT_PREFIX: Final = "FEDNOT_SERVER_"

_PRECISIONS: Final = {"float32": torch.float32, "float64": torch.float64}


class StateSettings(LogSettings):
    """Where a server's state is."""

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


class ServerSettings(StateSettings):
    """The fednot aggregation server. `fednot-server backup TARGET_DIR`, `restore SOURCE_DIR` and
    `fsck` copy its state, bring it back and check it, and `renew-ledger` is for a lost ledger; each
    has a --help of its own.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    address: str = Field("127.0.0.1:50051", description="HOST:PORT to serve gRPC on")
    http_address: str = Field(
        "127.0.0.1:9464", description="HOST:PORT of /metrics and /healthz, empty for none"
    )
    console_address: str = Field(
        "", description="HOST:PORT of the console for browsers, usual port 9466; empty for none"
    )
    task: str = Field(
        "", description="the Task, FILE.py:Class: it builds the model, traces it and evaluates"
    )
    task_arg: tuple[str, ...] = Field((), description="KEY=VALUE for the Task, may be repeated")
    model: Path | None = Field(
        None, description="a model file by `fednot model init`, for a server without a Task"
    )
    seed: int = Field(0, ge=0, description="seed of the initial model and of every round")
    identity: Path | None = Field(
        None, description="folder with the server's cert.pem, key.pem and ca.pem"
    )
    revocations: Path | None = Field(
        None, description="PEM file of revocation lists; its certificates are refused"
    )
    authority: Path | None = Field(
        None,
        description="directory by `fednot certs init`: gives --identity (DIR/server) and "
        "--revocations (DIR/revoked.pem), and lets the server sign certificates, its own too",
    )
    enrolment_address: str = Field(
        "", description="HOST:PORT where machines enrol by token, usual port 50052; empty for none"
    )
    insecure: bool = Field(False, description="plaintext without identities, loopback only")
    require_approval: bool = Field(
        False, description="deletions and readmissions wait for a second identity"
    )
    approval_expiry: float = Field(
        7 * 24 * 3600.0, gt=0, description="seconds before an approval that nobody gave ends"
    )
    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients in a round")
    quorum: float = Field(0.5, gt=0, le=1, description="share of a cohort that makes a round count")
    min_clients: int = Field(2, ge=1, description="clients that a round needs")
    round_deadline: float = Field(600.0, gt=0, description="seconds a round waits for updates")
    client_wait: float = Field(600.0, ge=0, description="seconds a run waits for min-clients")
    round_retries: int = Field(3, ge=0, description="rounds without quorum before a run fails")
    retry_wait: float = Field(2.0, ge=0, description="seconds before such a round is tried again")
    recovery_min_rounds: int = Field(2, ge=1, description="recovery rounds at the least")
    recovery_max_rounds: int = Field(20, ge=1, description="recovery rounds of an attempt at most")
    recovery_momentum: float = Field(
        0.0, ge=0, lt=1, description="share of the last recovery step that the next one adds"
    )
    recovery_tolerance: float = Field(
        0.01, ge=0, lt=1, description="accuracy that recovery may stay below the one before"
    )
    plateau_rounds: int = Field(5, ge=1, description="rounds without improvement: a plateau")
    chance_rounds: int = Field(4, ge=1, description="rounds at chance before the next layer")
    job_deadline: float = Field(
        30 * 24 * 3600.0, gt=0, description="seconds before an open deletion fails"
    )
    keep_versions: int = Field(
        5, ge=0, description="newest versions whose bytes training keeps, 0 for all"
    )
    destruction_wait: float = Field(
        10.0, ge=0, description="seconds a deletion waits for clients to destroy their caches"
    )
    confirmation_wait: float = Field(
        7 * 24 * 3600.0,
        gt=0,
        description="seconds a deletion waits for a client to confirm what it forgets",
    )
    target_wait: float = Field(
        600.0,
        ge=0,
        description="seconds that a method waits for the client whose data is forgotten",
    )
    keep_updates: int = Field(
        0,
        ge=0,
        description="keep the updates of every N-th round for fed-eraser and fukd; 0 keeps none",
    )
    verify: bool = Field(True, description="verify each deletion before its model is released")
    auc_margin: float = Field(
        0.1, gt=0, lt=0.5, description="how far the membership AUC may be from 0.5"
    )
    trigger_margin: float = Field(
        0.1, gt=0, lt=1, description="by how much a trigger may raise the share of its class"
    )
    undo_rounds: int = Field(2, ge=0, description="rounds after the undo attack")
    undo_layers: int = Field(8, ge=0, description="most layers that are undone each alone")
    verification_wait: float = Field(
        60.0, ge=0, description="seconds verification waits for a client"
    )
    verification_examples: int = Field(
        2000, ge=1, description="most samples of a group that verification looks at"
    )
    probes: Path | None = Field(
        None, description="folder of the operator's sealed probes, one .npz for each scope"
    )
    ladder: tuple[str, ...] = Field(
        ("shrink-and-perturb:0.3", "retrain"),
        description="plans of --assurance deep, one after the other: SELECTOR or "
        "METHOD[@SELECTOR], each with *ROUNDS or without",
    )
    heartbeat_interval: float = Field(5.0, gt=0, description="seconds between client heartbeats")
    upload_slots: int = Field(2, ge=1, description="updates that are in memory at once")
    upload_wait: float = Field(20.0, gt=0, description="seconds an upload waits for a slot")
    slow_upload: int = Field(
        8_000_000, ge=0, description="bytes/s below which uploads move to disk while others wait"
    )
    partial_expiry: float = Field(300.0, gt=0, description="seconds that a cut upload is kept")
    memory_budget: ByteSize | None = Field(
        None, description="bytes for models and updates in memory, as 512MB; more goes to disk"
    )
    accumulator: Literal["float32", "float64"] = Field(
        "float32", description="precision of the sum; float64 does not depend on arrival order"
    )
    aggregation: Literal["mean", "median", "trimmed-mean", "multi-krum"] = Field(
        "mean",
        description="rule for the updates of a round: mean, median, trimmed-mean, multi-krum",
    )
    recovery_aggregation: Literal["", "mean", "median", "trimmed-mean", "multi-krum"] = Field(
        "", description="rule of recovery rounds; empty for that of --aggregation"
    )
    byzantine_clients: int = Field(
        1, ge=1, description="hostile clients a round that trimmed-mean and multi-krum withstand"
    )
    clip_norm: float = Field(
        0.0, ge=0, description="L2 norm to which larger updates are scaled down; 0 for none"
    )
    secure_aggregation: bool = Field(
        False, description="see only the sum of a round's updates, which clients mask"
    )
    mask_range: float = Field(
        16.0, ge=1e-30, le=1e30, description="largest magnitude of an element of a masked update"
    )
    mask_wait: float = Field(
        30.0, gt=0, description="seconds that each step of masking waits for its clients"
    )
    codecs: tuple[str, ...] = Field(
        NAMES, description="encodings of updates that clients may choose, may be repeated"
    )
    top_k_fraction: float = Field(
        DEFAULT_FRACTION, gt=0, le=1, description="share of the values that topk keeps"
    )
    data_address: str = Field(
        "", description="HOST:PORT of the data channel, usual port 50053; empty for none"
    )
    max_message: ByteSize = Field(
        ByteSize(4 << 20), ge=64 << 10, description="bytes of a gRPC message at most, as 4MiB"
    )
    max_update: ByteSize | None = Field(
        None, description="bytes of an encoded update at most; empty for what the model needs"
    )
    max_tensors: int = Field(100_000, ge=1, description="tensors of a model at most")
    max_connections: int = Field(
        2000, ge=1, description="connections to a listener at most; more are closed at once"
    )
    connections_per_identity: int = Field(
        32, ge=1, description="connections of one certificate's name at most"
    )
    streams_per_connection: int = Field(
        32, ge=1, description="calls that one connection may have under way"
    )
    requests_per_minute: int = Field(
        6000, ge=1, description="calls of one identity in a minute at most"
    )
    deletions_per_minute: int = Field(
        60, ge=1, description="calls of one identity in a minute that begin or end a deletion"
    )
    joins_per_minute: int = Field(60, ge=1, description="joins of one client in a minute at most")
    enrolments_per_minute: int = Field(
        120, ge=1, description="enrolments in a minute at most, whoever asks"
    )
    slowest_upload: int = Field(
        1000, ge=0, description="bytes/s below which an upload is cut after 10 s; 0 for never"
    )
    stop_grace: float = Field(5.0, ge=0, description="seconds that calls get to end at SIGTERM")
    reflection: bool = Field(True, description="serve gRPC reflection")
    torch_threads: int = Field(1, ge=1, description="threads for aggregation and evaluation")
    trace_endpoint: str = Field("", description="http(s)://HOST:4317 of OTLP; empty for no traces")

    @field_validator("model", "identity", "revocations", "authority", "probes", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None

    @field_validator("codecs")
    @classmethod
    def _known_codecs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            codec_of(name)
        return names

    @field_validator("ladder")
    @classmethod
    def _known_plans(cls, ladder: tuple[str, ...]) -> tuple[str, ...]:
        for text in ladder:
            try:
                rung_of(text)
            except FednotError as error:
                raise ValueError(error.message) from error
        return ladder

    @model_validator(mode="after")
    def _consistent(self) -> ServerSettings:
        exclusions.check(self)
        if self.insecure:
            self._check_insecure()
        elif self.identity_folder is None:
            raise ValueError(
                "give --authority DIR (`fednot certs init DIR` makes it) or --identity FOLDER; "
                "--insecure serves plaintext on loopback"
            )
        if self.enrolment_address and not self.authority:
            raise ValueError("--enrolment-address needs --authority DIR, which signs certificates")
        if bool(self.task) == bool(self.model):
            raise ValueError("give either --task or --model, the federation's model")
        if self.require_approval and self.approval_expiry >= self.job_deadline:
            raise ValueError(
                f"--approval-expiry ({self.approval_expiry:g} s) must be below --job-deadline "
                f"({self.job_deadline:g} s), the longest that a deletion waits for its approval"
            )
        self._check_rules()
        return self

    def _check_rules(self) -> None:
        for flag, text in (
            ("--aggregation", self.aggregation),
            ("--recovery-aggregation", self.recovery_aggregation),
        ):
            fewest = self._aggregation(text).fewest if text else 0
            if self.min_clients < fewest:
                told = f" with --byzantine-clients {self.byzantine_clients}"
                raise ValueError(
                    f"{flag} {text}{'' if text == 'median' else told} needs the updates of "
                    f"{fewest} clients; give --min-clients {fewest} or more, or another rule"
                )

    def _aggregation(self, rule: str) -> Aggregation:
        return Aggregation(
            rule=RuleName(rule),
            byzantine=self.byzantine_clients,
            clip_norm=self.clip_norm or math.inf,
        )

    def _check_insecure(self) -> None:
        names = ("identity", "revocations", "authority", "require_approval", "enrolment_address")
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name)]
        if given:
            raise ValueError(
                f"--insecure serves without identities and {given[0]} needs them; keep one"
            )
        beside = (self.data_address, self.console_address)
        for address in (self.address, *filter(None, beside)):
            if not is_loopback(address):
                raise ValueError(
                    f"--insecure serves loopback only and {address} is not; give --authority DIR "
                    "(`fednot certs init DIR` makes it) or --identity FOLDER instead"
                )

    @property
    def identity_folder(self) -> Path | None:
        """Where the server's own certificate is; None over plaintext."""
        if self.identity is None and self.authority is not None:
            return self.authority / "server"
        return self.identity

    def upload_limits(self) -> UploadLimits:
        """What uploads may take."""
        return UploadLimits(
            slots=self.upload_slots,
            wait=self.upload_wait,
            slowest=self.slow_upload,
            expiry=self.partial_expiry,
            least=self.slowest_upload,
            most_bytes=self.max_update,
        )

    def call_limits(self) -> CallLimits:
        """What one caller may take."""
        return CallLimits(
            requests=self.requests_per_minute,
            deletions=self.deletions_per_minute,
            joins=self.joins_per_minute,
            enrolments=self.enrolments_per_minute,
            connections=self.connections_per_identity,
        )

    def defaults(self) -> Defaults:
        """What requests with unset fields get."""
        return Defaults(
            rounds=RoundPolicy(
                fraction=self.fraction,
                quorum=self.quorum,
                deadline=self.round_deadline,
                min_clients=self.min_clients,
                client_wait=self.client_wait,
            ),
            recovery=RecoveryPolicy(
                min_rounds=self.recovery_min_rounds,
                tolerance=self.recovery_tolerance,
                plateau_rounds=self.plateau_rounds,
                chance_rounds=self.chance_rounds,
                min_clients=self.min_clients,
                round_deadline=self.round_deadline,
            ),
            recovery_rounds=self.recovery_max_rounds,
            recovery_momentum=self.recovery_momentum,
            job_deadline=self.job_deadline,
            round_retries=self.round_retries,
            retry_wait=self.retry_wait,
            keep_versions=self.keep_versions,
            destruction_wait=self.destruction_wait,
            accumulator=_PRECISIONS[self.accumulator],
            aggregation=self._aggregation(self.aggregation),
            recovery_aggregation=(
                self._aggregation(self.recovery_aggregation) if self.recovery_aggregation else None
            ),
            seed=self.seed,
            require_approval=self.require_approval,
            approval_expiry=self.approval_expiry,
            confirmation_wait=self.confirmation_wait,
            target_wait=self.target_wait,
            verification=VerificationPolicy(
                enabled=self.verify,
                thresholds=Thresholds(self.auc_margin, self.trigger_margin),
                undo_rounds=self.undo_rounds,
                undo_layers=self.undo_layers,
                wait=self.verification_wait,
                max_examples=self.verification_examples,
            ),
            ladder=self.ladder,
        )
