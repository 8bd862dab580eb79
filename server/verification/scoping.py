"""Who is asked for what when a job is verified. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from server.cohorts.cohort import ForgottenData, ProfileOrder, SampleGroup
from server.records import Scope, ScopeKind

_ASIDE = (SampleGroup.FORGOTTEN, SampleGroup.UNSEEN)
_BESIDE = (SampleGroup.RETAINED, SampleGroup.TEST)


def holders_of(scopes: Sequence[Scope], eligible: Collection[str]) -> frozenset[str]:
    """The clients that may hold forgotten samples: those that are named, and all for a class."""
    named = {scope.client for scope in scopes if scope.kind is not ScopeKind.CLASS}
    has_class = any(scope.kind is ScopeKind.CLASS for scope in scopes)
    return frozenset(named) | (frozenset(eligible) if has_class else frozenset())


def profile_order(
    job_id: str,
    scopes: Sequence[Scope],
    there: Collection[str],
    eligible: Collection[str],
    most: int,
) -> ProfileOrder:
    """What the clients that are `there` look at: holders at what they forget and at samples that
    they never trained on, those that take part in rounds at what they keep and test on.
    """
    holders = holders_of(scopes, eligible)
    forgotten = {name: _forgotten(name, scopes) for name in sorted(holders & set(there))}
    groups = {}
    for name in sorted(set(there)):
        aside = _ASIDE if name in forgotten else ()
        wanted = (*aside, *_BESIDE) if name in eligible else aside
        if wanted:
            groups[name] = wanted
    return ProfileOrder(job_id, groups, forgotten, most)


def forgotten_by(scopes: Sequence[Scope]) -> dict[str, ForgottenData]:
    """What each client that is named forgets; classes name none."""
    named = sorted({scope.client for scope in scopes if scope.kind is not ScopeKind.CLASS})
    return {name: _forgotten(name, scopes) for name in named}


def _forgotten(client: str, scopes: Sequence[Scope]) -> ForgottenData:
    own = [scope for scope in scopes if scope.client == client]
    return ForgottenData(
        everything=any(scope.kind is ScopeKind.CLIENT for scope in own),
        tombstones=tuple(
            scope.tombstone or scope.sha256 for scope in own if scope.kind is ScopeKind.SAMPLES
        ),
        labels=tuple(
            scope.label
            for scope in scopes
            if scope.kind is ScopeKind.CLASS and scope.label is not None
        ),
    )
