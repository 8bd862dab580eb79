"""Loads a user's Task from the place that the local command line names."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

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
    """Loads `FILE.py:Class` or `package.module:Class` and calls it with KEY=VALUE arguments.

    Raises TaskLoadError if the file, the class or its arguments are wrong.
    """
    where, _, name = place.rpartition(":")
    if not where or not name.isidentifier():
        raise TaskLoadError(f"{place!r} is no task; write FILE.py:Class or package.module:Class")
    found = getattr(_module(where), name, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise TaskLoadError(f"{where} has no class {name} that subclasses fednot.Task")
    try:
        return found(**_keywords(arguments))
    except (TypeError, ValueError) as error:
        raise TaskLoadError(f"{place} does not take {list(arguments)}: {error}") from error


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
