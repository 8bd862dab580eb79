"""Addresses and the process."""

from __future__ import annotations

from pydantic import Field

from fednot.settings import Settings


class ServingSettings(Settings):
    """Where it serves."""

    address: str = Field("127.0.0.1:50051", description="HOST:PORT to serve gRPC on")
    http_address: str = Field(
        "127.0.0.1:9464", description="HOST:PORT of /metrics and /healthz, empty for none"
    )
    console_address: str = Field(
        "", description="HOST:PORT of the console for browsers, usual port 9466; empty for none"
    )
    data_address: str = Field(
        "", description="HOST:PORT of the data channel, usual port 50053; empty for none"
    )
    enrolment_address: str = Field(
        "", description="HOST:PORT where machines enrol by token, usual port 50052; empty for none"
    )
    reflection: bool = Field(True, description="serve gRPC reflection")
    stop_grace: float = Field(5.0, ge=0, description="seconds that calls get to end at SIGTERM")
    torch_threads: int = Field(1, ge=1, description="threads for aggregation and evaluation")
