"""Reads the server's lists page by page, newest first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from fednot.cli.session import Session
from fednot.v1 import deletion_pb2, model_pb2, operator_pb2

PAGE: Final = 100


def rounds(session: Session, page_size: int = PAGE) -> Iterator[operator_pb2.Round]:
    """Every round. Raises CliError."""
    request = operator_pb2.ListRoundsRequest(page_size=page_size)
    while True:
        page = session.call(session.operator.ListRounds, request)
        yield from page.rounds
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def versions(session: Session, page_size: int = PAGE) -> Iterator[model_pb2.Version]:
    """Every version. Raises CliError."""
    request = operator_pb2.ListVersionsRequest(page_size=page_size)
    while True:
        page = session.call(session.operator.ListVersions, request)
        yield from page.versions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def deletions(session: Session, page_size: int = PAGE) -> Iterator[deletion_pb2.Deletion]:
    """Every deletion. Raises CliError."""
    request = deletion_pb2.ListDeletionsRequest(page_size=page_size)
    while True:
        page = session.call(session.deletions.ListDeletions, request)
        yield from page.deletions
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def first_rounds(session: Session, limit: int) -> list[operator_pb2.Round]:
    """The newest rounds. Raises CliError."""
    return list(islice(rounds(session, min(limit, PAGE)), limit))


def first_versions(session: Session, limit: int) -> list[model_pb2.Version]:
    """The newest versions. Raises CliError."""
    return list(islice(versions(session, min(limit, PAGE)), limit))


def first_deletions(session: Session, limit: int) -> list[deletion_pb2.Deletion]:
    """The newest deletions. Raises CliError."""
    return list(islice(deletions(session, min(limit, PAGE)), limit))
