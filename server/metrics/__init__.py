"""What the server tells Prometheus, by theme. No label names a client, a job or a person.

Only these modules know prometheus_client; what each metric means is in docs/metrics.md.
"""

from server.metrics.exposition import Metrics, new_registry

__all__ = ["Metrics", "new_registry"]
