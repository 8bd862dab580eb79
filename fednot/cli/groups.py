"""Verbs that do something by themselves and have further verbs below them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer


def unless_below(command: Callable[..., None]) -> Callable[..., None]:
    """Makes a verb the action of its group, for when no verb below it is named.

    Options go behind the last verb: one that stands before it is refused, since it would be lost.
    """

    def group(context: typer.Context, **arguments: Any) -> None:
        if context.invoked_subcommand is None:
            command(**arguments)
            return
        for name in arguments:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                raise typer.BadParameter(
                    f"options go behind the verb: write them after {context.invoked_subcommand!r}"
                )

    signature = inspect.signature(command)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = inspect.Parameter("context", kind, annotation=typer.Context)
    parameters = [own, *signature.parameters.values()]
    group.__doc__ = command.__doc__
    group.__name__ = command.__name__
    group.__annotations__ = {each.name: each.annotation for each in parameters}
    group.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return group
