"""Settings of a process: flag > environment > TOML file > default, as one frozen object.

An environment variable `<PREFIX>NAME_FILE` names a file that holds the value, for secrets. An
unknown key, wherever it stands, is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import sys
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from fednot import setting_flags

USAGE_ERROR: Final = 2

_KINDS: Final = {
    "int_parsing": "it must be a whole number",
    "float_parsing": "it must be a number",
    "bool_parsing": "it must be true or false",
}
"""What is said of a text that is no number or no truth, in place of pydantic's words."""


class SettingsError(ValueError):
    """A setting that is unknown or has a wrong value; the message says where it came from."""


class Settings(BaseModel):
    """The frozen settings of one process; subclasses list the fields.

    A base with a docstring of one sentence is a group of `--help`; a field with `json_schema_extra`
    POSITIONAL is an argument without a flag.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def load(
    kind: type[S],
    *,
    program: str,
    prefix: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    others: type[Settings] | None = None,
) -> S:
    """Reads the settings of a kind.

    File and environment may hold those of `others` too, another program that shares them.
    Raises SettingsError for a bad value or an unknown key or flag; `--help`, `--version` and a
    flag without its value end the process through argparse, as command lines do.
    """
    given = flags(kind, program, arguments)
    config_file = given.pop("config", None) or environment.get(f"{prefix}CONFIG")
    known = list(dict.fromkeys([*kind.model_fields, *(others.model_fields if others else ())]))
    values = _from_file(known, Path(config_file)) if config_file else {}
    values |= _from_environment(kind, known, prefix, environment)
    values = {name: value for name, value in values.items() if name in kind.model_fields}
    values |= given
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_sentences(error)) from error


def load_or_exit(
    kind: type[S],
    *,
    program: str,
    prefix: str,
    arguments: Sequence[str] | None = None,
    others: type[Settings] | None = None,
) -> S:
    """Reads the settings of this process; prints what is wrong and exits with 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        return load(
            kind,
            program=program,
            prefix=prefix,
            arguments=given,
            environment=os.environ,
            others=others,
        )
    except SettingsError as error:
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(USAGE_ERROR) from error


def flags(kind: type[Settings], program: str, arguments: Sequence[str]) -> dict[str, Any]:
    """What a command line gives, as texts. Raises SettingsError for an unknown flag."""
    parser = setting_flags.parser(kind, program, _version())
    found, unknown = parser.parse_known_args(arguments)
    if unknown:
        known = [name.replace("_", "-") for name in kind.model_fields]
        flag = unknown[0].partition("=")[0]
        raise SettingsError(f"{flag} is unknown{_nearest(flag.lstrip('-'), known)}")
    return vars(found)


def _from_environment(
    kind: type[Settings], known: Collection[str], prefix: str, environment: Mapping[str, str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        name = variable.removeprefix(prefix).lower()
        if not variable.startswith(prefix) or name == "config":
            continue
        secret = name not in known and name.endswith("_file")
        name = name.removesuffix("_file") if secret else name
        if name not in known:
            nearest = _nearest(name, known)
            raise SettingsError(f"environment variable {variable} is unknown{nearest}")
        if name in values:
            raise SettingsError(f"{prefix}{name.upper()} and its _FILE are both set; keep one")
        if name in kind.model_fields:
            text = _secret(variable, text) if secret else text
            repeated = get_origin(kind.model_fields[name].annotation) is tuple
            values[name] = text.split() if repeated else text
    return values


def _secret(variable: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{variable} names a file that cannot be read: {error}") from error


def _from_file(known: Collection[str], path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}") from error
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in known:
            raise SettingsError(f"{path}: {key} is unknown{_nearest(name, known)}")
        values[name] = value
    return values


def _nearest(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {found[0]}?" if found else f"; known are {', '.join(known)}"


def _sentences(error: ValidationError) -> str:
    rows = []
    for detail in error.errors():
        place = ".".join(str(part).replace("_", "-") for part in detail["loc"])
        said = str(detail.get("ctx", {}).get("error", detail["msg"]))
        if detail["type"] in _KINDS:
            said = f"{_KINDS[detail['type']]}, not {str(detail['input'])[:50]!r}"
        rows.append(f"{place}: {said}" if place else said)
    return "; ".join(rows)


def _version() -> str:
    from fednot import __version__

    return f"fednot {__version__}"
