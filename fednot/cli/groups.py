"""Verbs that have further verbs below them: what they do by themselves, and their help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.utils import get_params_from_function

_SUGGESTION: Final = "Did you mean"


class Verbs(TyperGroup):
    """All verbs. Their arguments keep the sentences that typer before 0.26 loses with click 8.4 and
    later: there click's own constructor takes them away from the arguments of typer. A mistyped
    verb is answered by one suggestion, which both would make.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the words begin with. Raises a UsageError of click if there is none."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if getattr(error, "possibilities", None) and _SUGGESTION in str(error):
                vars(error)["possibilities"] = None
            raise

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb of a name, None if there is none."""
        found = super().get_command(ctx, cmd_name)
        if found is not None:
            _give_help_back(found)
        return found


def _give_help_back(command: Any) -> None:
    for below in getattr(command, "commands", {}).values():
        _give_help_back(below)
    bare = [each for each in command.params if getattr(each, "help", None) is None]
    function = getattr(command.callback, "__wrapped__", None)
    if not bare or function is None:
        return
    told = get_params_from_function(function)
    for each in bare:
        if each.name in told:
            each.help = getattr(told[each.name].default, "help", None)


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
