"""NVFLARE's simulator with FedAvg over one float32 array, run by NVFLARE's Python."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe import SimEnv


def main() -> None:
    """Runs the job of the command line to its end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    given = parser.parse_args()
    model = given.folder / "model.npy"
    np.save(model, np.random.default_rng().standard_normal(given.bytes // 4, dtype=np.float32))
    recipe = NumpyFedAvgRecipe(
        name="bench",
        initial_ckpt=str(model),
        min_clients=given.clients,
        num_rounds=given.rounds,
        train_script=str(Path(__file__).with_name("nvflare_client.py")),
        train_args=f"--bytes {given.bytes} --times {given.folder / 'times.jsonl'}",
    )
    recipe.execute(
        SimEnv(
            num_clients=given.clients,
            num_threads=given.clients,
            workspace_root=str(given.folder / "workspace"),
        )
    )


if __name__ == "__main__":
    main()
