"""What the pages name in the middle of a sentence is there: options, verbs, and files."""

from __future__ import annotations

import re
from pathlib import Path

import click
from support.command_lines import control
from support.pages import FENCE, ROOT, pages

from docs.generate.programs import PROGRAMS

SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
FLAG = re.compile(r"(?<![\w=-])--([a-z][a-z0-9-]+)")
ARGUMENT = re.compile(r"""add_argument\(\s*(?:"-\w", )?"--([a-z][a-z0-9-]*)""")
FILE = re.compile(r"(?:tests|docs|deploy|examples|lab|fednot|server|client|protos|\.ci)/[\w./-]+")
OTHERS = {
    *("profile", "build", "build-arg", "gpus", "memory", "ulimit", "rm"),  # docker
    *("reuse-values", "set", "set-file", "values", "namespace", "create-namespace"),  # helm
    *("nproc-per-node", "max-restarts"),  # torchrun
    *("strict", "format", "check"),  # mypy, ruff
    *("extra-index-url", "part"),  # pip, a script of one's own
}
"""Options of programs that are not this project's."""
PROGRAMS_OF_OTHERS = {"docker", "helm", "kubectl", "git", "openssl", "pip", "torchrun"}
PROTOS = ROOT / "protos"
GONE = {"CHANGELOG.md"}
"""Pages that tell of what was, too."""


def spans(page: Path) -> list[str]:
    """The pieces of code between the words of a page."""
    kept, inside = [], False
    for line in page.read_text(encoding="utf-8").splitlines():
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            kept.append(line)
    return SPAN.findall("\n".join(kept))


def every_span() -> list[tuple[str, str]]:
    """Each with the name of its page."""
    found = [page for page in pages() if page.name not in GONE and page.parent.name != "decisions"]
    return [(page.name, span) for page in found for span in spans(page)]


def commands_below(command: click.Command) -> list[click.Command]:
    """A command and all below it."""
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(each for one in below for each in commands_below(one))]


def known_flags() -> set[str]:
    """Every option of every program of this repository."""
    of_verbs = {
        name.removeprefix("--")
        for command in commands_below(control())
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    settings = [name for program in PROGRAMS for name in program.kind.model_fields]
    of_daemons = {name.replace("_", "-") for name in settings}
    of_scripts = {
        flag
        for folder in ("lab", "benchmarks", "deploy", "fednot", "tests", ".ci")
        for path in (ROOT / folder).rglob("*.py")
        for flag in ARGUMENT.findall(path.read_text(encoding="utf-8"))
    }
    negated = {f"no-{name}" for name in of_daemons}
    return of_verbs | of_daemons | negated | of_scripts | {"help", "version", "config"}


def unknown_flags(found: list[tuple[str, str]]) -> list[str]:
    known = known_flags() | OTHERS
    return [
        f"{page}: {span}"
        for page, span in found
        if span.partition(" ")[0] not in PROGRAMS_OF_OTHERS and set(FLAG.findall(span)) - known
    ]


def unknown_verbs(found: list[tuple[str, str]]) -> list[str]:
    """Pieces that begin with `fednot` and go on with what is no verb."""
    return [f"{page}: {span}" for page, span in found if not _is_verb(span.split())]


def _is_verb(words: list[str]) -> bool:
    command = control()
    if words[:1] != ["fednot"]:
        return True
    for word in words[1:]:
        if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z][a-z-]*", word):
            return True
        if word not in command.commands:
            return command.invoke_without_command and command is not control()
        command = command.commands[word]
    return True


NOT_KEPT = {"deploy/compose/.env", "deploy/compose/task", "deploy/compose/data"}
"""Folders that somebody else makes, if at all."""
SUBJECT = re.compile(r"(?:client|server)/[a-z]+-[a-z0-9]+")
"""Who is meant in the audit and in certificates; no file has such a name."""


def missing_files(found: list[tuple[str, str]]) -> list[str]:
    """Pieces that are the path of a file or folder which is not there; `*` stands for any name."""
    return [
        f"{page}: {span}"
        for page, span in found
        if FILE.fullmatch(span) and span not in NOT_KEPT and not SUBJECT.fullmatch(span)
        if not any(any(place.parent.glob(place.name)) for place in (ROOT / span, PROTOS / span))
    ]


def test_every_option_in_a_sentence_is_there() -> None:
    assert unknown_flags(every_span()) == []


def test_every_verb_in_a_sentence_is_there() -> None:
    assert unknown_verbs(every_span()) == []


def test_every_file_in_a_sentence_is_there() -> None:
    assert missing_files(every_span()) == []


def test_each_fault_is_seen() -> None:
    page = "page.md"
    assert unknown_flags([(page, "--min-cleints 3"), (page, "--min-clients 3")]) == [
        "page.md: --min-cleints 3"
    ]
    assert unknown_verbs([(page, "fednot statuss"), (page, "fednot certs isue x")]) == [
        "page.md: fednot statuss",
        "page.md: fednot certs isue x",
    ]
    assert missing_files([(page, "server/rounds.py"), (page, "server/none.py")]) == [
        "page.md: server/none.py"
    ]
    assert len(every_span()) > 1000
