"""Loads a user's Task from the place that the local command line names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fednot.loop import Script, ScriptError
from fednot.task import Task


class TaskLoadError(ValueError):
    """A place that gives no Task, and what to do about it."""


@contextmanager
def calling(place: str) -> Iterator[None]:
    """Turns what a user's Task raises at the start into a TaskLoadError that names it."""
    try:
        yield
    except TaskLoadError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise TaskLoadError(f"{place} failed at the start: {error} ({kind})") from error


def load_task(place: str, arguments: list[str] | tuple[str, ...] = ()) -> Task:
    """Loads `FILE.py:NAME` or `package.module:NAME`: a Task's class or a function that gives one,
    which is called with KEY=VALUE arguments, or a Task that is there already. `SCRIPT.py` alone is
    a script that calls `fednot.loop.join`; its arguments are its command line's.

    Raises TaskLoadError if the file, the name or its arguments are wrong.
    """
    if place.endswith(".py"):
        try:
            return Script.started(Path(place), arguments)
        except ScriptError as error:
            raise TaskLoadError(str(error)) from error
    where, _, name = place.rpartition(":")
    if not where or not name.isidentifier():
        raise TaskLoadError(
            f"{place!r} is no task; write FILE.py:NAME, package.module:NAME or SCRIPT.py"
        )
    found = getattr(_module(where), name, None)
    if isinstance(found, Task) and not arguments:
        return found
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Task)):
        raise TaskLoadError(
            f"{where} has no {name} that is a fednot.Task, a subclass of it, or a function that "
            "gives one" + (" (a Task that is there already takes no --task-arg)" * bool(arguments))
        )
    try:
        made = found(**_keywords(arguments))
    except (TypeError, ValueError) as error:
        raise TaskLoadError(f"{place} does not take {list(arguments)}: {error}") from error
    if not isinstance(made, Task):
        raise TaskLoadError(f"{place} gave {type(made).__name__}, which is no fednot.Task")
    return made


def _module(where: str) -> ModuleType:
    if not where.endswith(".py"):
        try:
            return importlib.import_module(where)
        except ModuleNotFoundError as error:
            raise TaskLoadError(f"{where} cannot be imported: {error}") from error
    path = Path(where).resolve()
    if not path.is_file():
        raise TaskLoadError(f"{path} does not exist")
    name = f"fednot_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise TaskLoadError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _keywords(arguments: list[str] | tuple[str, ...]) -> dict[str, str]:
    keywords = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not key.isidentifier():
            raise TaskLoadError(f"task argument {argument!r} is not KEY=VALUE")
        keywords[key] = value
    return keywords
