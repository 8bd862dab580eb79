"""How rounds are held."""

from __future__ import annotations

from pydantic import Field

from fednot.settings import Settings


class RoundSettings(Settings):
    """Rounds."""

    fraction: float = Field(1.0, gt=0, le=1, description="share of the clients in a round")
    quorum: float = Field(0.5, gt=0, le=1, description="share of a cohort that makes a round count")
    min_clients: int = Field(2, ge=1, description="clients that a round needs")
    round_deadline: float = Field(600.0, gt=0, description="seconds a round waits for updates")
    client_wait: float = Field(600.0, ge=0, description="seconds a run waits for min-clients")
    round_retries: int = Field(3, ge=0, description="rounds without quorum before a run fails")
    retry_wait: float = Field(2.0, ge=0, description="seconds before such a round is tried again")
    heartbeat_interval: float = Field(5.0, gt=0, description="seconds between client heartbeats")
    keep_versions: int = Field(
        5, ge=0, description="newest versions whose bytes training keeps, 0 for all"
    )
