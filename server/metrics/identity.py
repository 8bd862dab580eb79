"""The certificates in force."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

CERTIFICATES: Final = ("server", "authority", "clients")


class IdentityMetrics:
    """When certificates end, and whether the server's files are those in force."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._expiries = Gauge(
            "fednot_certificate_expiry_timestamp_seconds",
            "When certificates end: the server's, its authority's, the first client's; 0 if none",
            ["certificate"],
            registry=registry,
        )
        self._stale = Gauge(
            "fednot_identity_files_stale",
            "1 while replaced identity files cannot be used and the ones before stay in force",
            registry=registry,
        )
        self.show({}, stale=False)

    def show(self, expiries: Mapping[str, float], *, stale: bool) -> None:
        """Shows when certificates end, and whether the server's files are not the ones in force."""
        for certificate in CERTIFICATES:
            self._expiries.labels(certificate).set(expiries.get(certificate, 0.0))
        self._stale.set(stale)
