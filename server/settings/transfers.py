"""How updates arrive, in what encoding and in how much memory."""

from __future__ import annotations

from pydantic import ByteSize, Field, field_validator

from fednot.codecs import NAMES, codec_of
from fednot.codecs.topk import DEFAULT_FRACTION
from fednot.settings import Settings


class TransferSettings(Settings):
    """Uploads, codecs and memory."""

    upload_slots: int = Field(2, ge=1, description="updates that are in memory at once")
    upload_wait: float = Field(20.0, gt=0, description="seconds an upload waits for a slot")
    slow_upload: int = Field(
        8_000_000, ge=0, description="bytes/s below which uploads move to disk while others wait"
    )
    slowest_upload: int = Field(
        1000, ge=0, description="bytes/s below which an upload is cut after 10 s; 0 for never"
    )
    partial_expiry: float = Field(300.0, gt=0, description="seconds that a cut upload is kept")
    memory_budget: ByteSize | None = Field(
        None, description="bytes for models and updates in memory, as 512MB; more goes to disk"
    )
    codecs: tuple[str, ...] = Field(
        NAMES, description="encodings of updates that clients may choose, may be repeated"
    )
    top_k_fraction: float = Field(
        DEFAULT_FRACTION, gt=0, le=1, description="share of the values that topk keeps"
    )

    @field_validator("codecs")
    @classmethod
    def _known_codecs(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            codec_of(name)
        return names
