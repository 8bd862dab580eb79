"""The client script of the NVFLARE job: answers with an update that was made beforehand."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import nvflare.client as flare


def main() -> None:
    """Answers every round, and writes when each came in."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--times", type=Path, required=True)
    given = parser.parse_args()
    ready = np.random.default_rng().standard_normal(given.bytes // 4, dtype=np.float32)
    flare.init()
    while flare.is_running():
        model = flare.receive()
        if model is None:
            break
        with given.times.open("a") as file:
            file.write(json.dumps([model.current_round, time.monotonic()]) + "\n")
        params = dict.fromkeys(model.params, ready)
        flare.send(flare.FLModel(params=params, params_type=model.params_type, metrics={}))


main()
