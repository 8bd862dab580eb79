"""One thread for arithmetic, in these processes and in those that they start.

More would spin as they wait for each other where several processes share a few cores: on two cores
a step of training then takes six times as long.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
