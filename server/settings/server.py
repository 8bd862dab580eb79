"""All settings of the server, and which of them go together."""

from __future__ import annotations

from pydantic import ConfigDict, model_validator

from fednot.address import is_loopback
from fednot.log_settings import LogSettings, TraceSettings
from server import exclusions
from server.federation import Defaults
from server.records import RecoveryPolicy, RoundPolicy
from server.settings.aggregation import AggregationSettings
from server.settings.deletions import DeletionSettings
from server.settings.identities import IdentitySettings
from server.settings.limits import LimitSettings
from server.settings.rounds import RoundSettings
from server.settings.serving import ServingSettings
from server.settings.state import StateSettings
from server.settings.task import TaskSettings
from server.settings.transfers import TransferSettings
from server.settings.verification import VerificationSettings
from server.uploads.desk import UploadLimits


class ServerSettings(
    TaskSettings,
    ServingSettings,
    IdentitySettings,
    StateSettings,
    RoundSettings,
    AggregationSettings,
    DeletionSettings,
    VerificationSettings,
    TransferSettings,
    LimitSettings,
    TraceSettings,
    LogSettings,
):
    """The fednot aggregation server. `fednot-server backup TARGET_DIR`, `restore SOURCE_DIR` and
    `fsck` copy its state, bring it back and check it, and `renew-ledger` is for a lost ledger; each
    has a --help of its own.
    """

    model_config = ConfigDict(allow_inf_nan=False)

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
            fewest = self.rule(text).fewest if text else 0
            if self.min_clients < fewest:
                told = f" with --byzantine-clients {self.byzantine_clients}"
                raise ValueError(
                    f"{flag} {text}{'' if text == 'median' else told} needs the updates of "
                    f"{fewest} clients; give --min-clients {fewest} or more, or another rule"
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
            accumulator=self.precision,
            aggregation=self.rule(self.aggregation),
            recovery_aggregation=(
                self.rule(self.recovery_aggregation) if self.recovery_aggregation else None
            ),
            seed=self.seed,
            require_approval=self.require_approval,
            approval_expiry=self.approval_expiry,
            confirmation_wait=self.confirmation_wait,
            target_wait=self.target_wait,
            verification=self.verification_policy(),
            ladder=self.ladder,
        )
