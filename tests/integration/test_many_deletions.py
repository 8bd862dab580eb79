"""A thousand requests at once, most of them the same ones again: one job for each, none lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.federation import LocalFederation
from support.replay import MANIFEST

from benchmarks.deletion_load import CONNECTIONS, IDS, REQUESTS, client_name, join, load
from fednot.v1 import deletion_pb2


@pytest.mark.timeout(300)
def test_each_request_id_gets_one_job_and_none_is_lost(tmp_path: Path) -> None:
    """16 connections send 1,000 requests of 200 ids; nobody is there to recover with."""
    flags = ("--task-arg", "trace=no")
    with LocalFederation(tmp_path, insecure=True, server_flags=flags) as federation:
        federation.start_server()
        asyncio.run(join(federation.address, MANIFEST, IDS))

        answers = asyncio.run(load(federation.address, connections=CONNECTIONS))

        assert len(answers.seconds) == REQUESTS
        assert len(answers.jobs) == IDS
        assert {request: jobs for request, jobs in answers.jobs.items() if len(jobs) > 1} == {}
        federation.kill("server")
        federation.start_server()
        found = deletions(federation)
        assert {each.request_id: {each.job.id} for each in found} == answers.jobs
        assert len({each.job.id for each in found}) == IDS
        assert {each.scope.client for each in found} == {client_name(n) for n in range(IDS)}
        assert federation.status().clients_barred == IDS


def deletions(federation: LocalFederation) -> list[deletion_pb2.Deletion]:
    """Every one of them, page by page."""
    found: list[deletion_pb2.Deletion] = []
    request = deletion_pb2.ListDeletionsRequest(page_size=1000)
    while True:
        answer = federation.deletions.ListDeletions(request, timeout=60)
        found += answer.deletions
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
