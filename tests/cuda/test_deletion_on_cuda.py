"""The main job with clients that train on CUDA: train, forget one of them, recover."""

from __future__ import annotations

from pathlib import Path

import torch
from support.federation import LocalFederation, eventually

from fednot.v1 import deletion_pb2

ON_CUDA = ("--device", "cuda:0")


def test_clients_on_cuda_train_and_recover(tmp_path: Path, cuda: torch.device) -> None:
    with LocalFederation(tmp_path, server_flags=("--min-clients", "2")) as federation:
        federation.start_server()
        for index in range(3):
            federation.start_client(index, flags=ON_CUDA)
        federation.await_connected(3)
        name = f'fednot_fleet_clients{{device="{cuda.type}"}}'
        eventually("the heartbeats say so", lambda: federation.metrics().get(name) == 3)
        assert federation.train(2).rounds_done == 2
        federation.unlearn("c0", "forget-c0", max_rounds=2)
        ended = federation.await_job("forget-c0")
        assert ended.job.phase == deletion_pb2.JOB_PHASE_COMPLETED, federation.log("server")
        assert federation.metrics()["fednot_fleet_degraded_clients"] == 0
