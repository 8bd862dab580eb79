"""The verbs of `unlearn`: they ask for a deletion so that a lost reply costs nothing."""

from __future__ import annotations

import functools
import inspect
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import typer

from fednot.cli import deletion_options as of
from fednot.cli import interrupts, options
from fednot.cli.deletions import report, wait
from fednot.cli.exit_codes import ExitCode
from fednot.cli.failures import CliError
from fednot.cli.session import Session, verb
from fednot.v1 import deletion_pb2

app = typer.Typer(no_args_is_help=True, help="Ask that a contribution be forgotten.")

RETRY_PAUSES: Final = (0.5, 1.0, 2.0, 4.0)
MOST_LABEL: Final = (1 << 63) - 1

Name = Annotated[str, typer.Argument(metavar="NAME", help="The client to forget.")]
Holder = Annotated[str, typer.Argument(metavar="CLIENT", help="The client that holds the samples.")]
Label = Annotated[
    int, typer.Argument(metavar="LABEL", min=0, max=MOST_LABEL, help="The class to forget.")
]
Subject = Annotated[
    str,
    typer.Option(
        metavar="KEY",
        help="Whose samples: a key that the client's Task resolves. The client confirms before "
        "the deletion begins.",
    ),
]


@app.callback()
def scopes() -> None:
    """Ask that a contribution be forgotten."""


def asking(scope_of: Callable[..., deletion_pb2.Scope]) -> Callable[..., ExitCode]:
    """Makes a function of a scope's arguments one that asks for its deletion.

    It takes the options of every deletion beside those arguments.
    """

    def ask(session: Session, **given: Any) -> ExitCode:
        arguments = {name: given.pop(name) for name in own}
        return _ask(session, scope_of(**arguments), **given)

    own = inspect.signature(scope_of, eval_str=True).parameters
    session, _, *shared = inspect.signature(_ask, eval_str=True).parameters.values()
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in (*own.values(), *shared)
    ]
    functools.update_wrapper(ask, scope_of)
    ask.__signature__ = inspect.Signature([session, *parameters])  # type: ignore[attr-defined]
    return ask


def _ask(
    session: Session,
    scope: deletion_pb2.Scope,
    also: of.Also = [],  # noqa: B006  (typer copies it)
    layers: of.Layers = "",
    method: of.MethodOption = "",
    assurance: of.AssuranceOption = None,
    request_id: of.RequestId = "",
    allow_unsafe_layers: of.Unsafe = False,
    priority: of.Priority = 0,
    not_after: of.NotAfter = "",
    retain: of.Retain = False,
    min_rounds: of.MinRounds = None,
    max_rounds: of.MaxRounds = None,
    tolerance: of.Tolerance = None,
    plateau_rounds: of.PlateauRounds = None,
    chance_rounds: of.ChanceRounds = None,
    full_budget: of.FullBudget = False,
    min_clients: of.MinClients = None,
    round_deadline: of.RoundDeadline = None,
    wait_for_end: of.Wait = False,
    wait_timeout: options.WaitTimeout = options.DEFAULT_WAIT,
) -> ExitCode:
    """Asks for a deletion, and follows it to its end if that is wanted."""
    policy = deletion_pb2.RecoveryPolicy(
        min_rounds=min_rounds,
        max_rounds=max_rounds,
        tolerance=tolerance,
        plateau_rounds=plateau_rounds,
        full_budget=full_budget or None,
        chance_rounds=chance_rounds,
        min_clients=min_clients,
        round_deadline=options.duration(round_deadline),
    )
    request = deletion_pb2.UnlearnRequest(
        request_id=request_id or str(uuid.uuid4()),
        scope=scope,
        more_scopes=_scopes_in(also),
        method=method,
        layers=layers,
        assurance=_assurance(assurance),
        allow_unsafe_layers=allow_unsafe_layers,
        recovery=policy,
        priority=priority,
        not_after=options.timestamp(not_after),
        retain=retain,
    )
    deletion = _sent(session, request)
    if not wait_for_end:
        return report(session, deletion)
    watched = deletion_pb2.WatchDeletionRequest(request_id=deletion.request_id)
    return wait(session, watched, wait_timeout)


@app.command()
@verb
@asking
def client(name: Name) -> deletion_pb2.Scope:
    """Forget everything that a client contributed. It is barred before this returns."""
    return deletion_pb2.Scope(client=name)


@app.command()
@verb
@asking
def samples(name: Holder, subject: Subject) -> deletion_pb2.Scope:
    """Forget a person's samples. Their client takes part in no round until it has barred them."""
    return _of_person(name, subject)


@app.command("class")
@verb
@asking
def class_(label: Label) -> deletion_pb2.Scope:
    """Forget a class. Each client bars it before it takes part in a round again."""
    return deletion_pb2.Scope(class_label=label)


def _of_person(client: str, subject: str) -> deletion_pb2.Scope:
    if not subject:
        raise typer.BadParameter("name the subject whose samples are to be forgotten")
    return deletion_pb2.Scope(samples=deletion_pb2.SampleScope(client=client, subject=subject))


def _scopes_in(texts: Sequence[str]) -> list[deletion_pb2.Scope]:
    """Scopes as they are written. Raises BadParameter for one that is not."""
    return [_scope_in(text) for text in texts]


def _scope_in(text: str) -> deletion_pb2.Scope:
    kind, _, rest = text.partition(":")
    name, _, subject = rest.partition(":")
    if kind == "client" and rest:
        return deletion_pb2.Scope(client=rest)
    if kind == "class" and rest.isascii() and rest.isdecimal() and int(rest) <= MOST_LABEL:
        return deletion_pb2.Scope(class_label=int(rest))
    if kind == "samples" and name and subject:
        return _of_person(name, subject)
    raise typer.BadParameter(
        f"{text!r} is no scope; write client:NAME, class:LABEL or samples:CLIENT:KEY",
        param_hint="--also",
    )


def _assurance(wanted: of.Assurance | None) -> deletion_pb2.Assurance.ValueType:
    name = wanted.name if wanted else "UNSPECIFIED"
    return deletion_pb2.Assurance.Value(f"ASSURANCE_{name}")


def _sent(session: Session, request: deletion_pb2.UnlearnRequest) -> deletion_pb2.Deletion:
    session.output.note(f"request id: {request.request_id}")
    for pause in (*RETRY_PAUSES, None):
        try:
            return session.call(session.deletions.Unlearn, request).deletion
        except CliError as error:
            if not error.lost:
                raise
            if pause is None or error.overdue:
                error.remedy += (
                    f" The request may have been taken: repeat it with --request-id "
                    f"{request.request_id}, which cannot delete twice."
                )
                raise
            interrupts.check()
            session.output.note(f"{error.message}; asking again with the same request id")
            time.sleep(pause)
    raise AssertionError
