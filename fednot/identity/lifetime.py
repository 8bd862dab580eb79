"""When a certificate is to be renewed, and when people are to be warned of its end."""

from __future__ import annotations

import datetime as dt
from typing import Final

from cryptography import x509

WARNING: Final = dt.timedelta(days=30)
"""People are warned so long before the end, or in the last third of a shorter lifetime."""


def renewal_due(certificate: x509.Certificate) -> dt.datetime:
    """When a certificate is to be renewed: at two thirds of its lifetime."""
    return certificate.not_valid_after_utc - _lifetime(certificate) / 3


def ends_soon(certificate: x509.Certificate, at: dt.datetime) -> bool:
    """Whether people are to be warned of a certificate's end at a moment."""
    margin = min(WARNING, _lifetime(certificate) / 3)
    return at >= certificate.not_valid_after_utc - margin


def remaining(certificate: x509.Certificate, at: dt.datetime) -> str:
    """When a certificate ends and how long that is from a moment on, for a sentence."""
    end = certificate.not_valid_after_utc
    left = max(end - at, dt.timedelta())
    hours = left / dt.timedelta(hours=1)
    shown = f"{left.days} days" if left.days >= 2 else f"{hours:.0f} h"
    if hours < 2:
        shown = f"{left.total_seconds():.0f} s"
    return f"{dated(end)}, in {shown}"


def dated(moment: dt.datetime) -> str:
    """A moment in UTC, to the second, for a sentence."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _lifetime(certificate: x509.Certificate) -> dt.timedelta:
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc
