"""How often a caller may ask: token buckets, which forget whom they have not seen for a while."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

MOST_BUCKETS: Final = 10_000


@dataclass
class _Bucket:
    tokens: float
    at: float


class Rate:
    """Lets each key through `per_minute` times a minute, all at once if it asked less before.

    At most MOST_BUCKETS keys are known; a key that was forgotten begins with a full bucket, and the
    one that was seen longest ago is forgotten first. Thread-safe.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute: Final = per_minute
        self._clock = clock
        self._buckets: OrderedDict[Hashable, _Bucket] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: Hashable) -> float:
        """Seconds after which the key may ask again; 0 if it may now, which counts."""
        with self._lock:
            now = self._clock()
            bucket = self._buckets.pop(key, None) or _Bucket(float(self.per_minute), now)
            gained = (now - bucket.at) * self.per_minute / 60
            bucket.tokens = min(float(self.per_minute), bucket.tokens + gained)
            bucket.at = now
            self._buckets[key] = bucket
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
            if bucket.tokens < 1:
                return (1 - bucket.tokens) * 60 / self.per_minute
            bucket.tokens -= 1
            return 0.0
