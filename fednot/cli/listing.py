"""Reads the server's lists page by page: newest first, but the audit oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

from fednot.cli.session import Session
from fednot.v1 import approval_pb2, audit_pb2, deletion_pb2, model_pb2, operator_pb2

PAGE: Final = 100
AUDIT_PAGE: Final = 1000


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


def approvals(session: Session, page_size: int = PAGE) -> Iterator[approval_pb2.Approval]:
    """Every approval. Raises CliError."""
    request = approval_pb2.ListApprovalsRequest(page_size=page_size)
    while True:
        page = session.call(session.approvals.ListApprovals, request)
        yield from page.approvals
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def audit_entries(session: Session, page_size: int = AUDIT_PAGE) -> Iterator[audit_pb2.AuditEntry]:
    """Every entry of the audit, oldest first. Raises CliError."""
    request = audit_pb2.ListAuditEntriesRequest(page_size=page_size)
    while True:
        page = session.call(session.audit.ListAuditEntries, request)
        yield from page.entries
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token


def last_audit_entries(session: Session, limit: int) -> list[audit_pb2.AuditEntry]:
    """The newest entries of the audit, newest last. Raises CliError."""
    request = audit_pb2.ListAuditEntriesRequest(
        page_size=min(max(limit, 2), AUDIT_PAGE), newest_first=True
    )
    found: list[audit_pb2.AuditEntry] = []
    while True:
        page = session.call(session.audit.ListAuditEntries, request)
        found += page.entries
        if len(found) > 1 and found[0].sequence < found[1].sequence:
            return list(deque(audit_entries(session), maxlen=limit))  # an older server
        if not page.next_page_token or len(found) >= limit:
            return found[:limit][::-1]
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


def first_approvals(session: Session, limit: int) -> list[approval_pb2.Approval]:
    """The newest approvals. Raises CliError."""
    return list(islice(approvals(session, min(limit, PAGE)), limit))
