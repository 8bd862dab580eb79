"""docs/reference is what `make reference` makes of the code, and each row of it says something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("grpc_tools", reason="grpcio-tools (extra dev) reads the protos")

from pydantic import ByteSize, Field

from client.forget_settings import VERBS as CLIENT
from client.settings import ClientSettings
from docs.generate import configuration, pages, protos, units
from docs.generate.configuration import rows
from docs.generate.programs import PROGRAMS, Program
from docs.generate.protos import CompilerError
from docs.generate.verbs import tree
from fednot.setting_flags import POSITIONAL
from fednot.settings import Settings
from server.maintenance.commands import COMMANDS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.glob("*.md")}


def test_the_reference_is_fresh(tmp_path: Path) -> None:
    (tmp_path / "gone.md").write_text("of an older version")
    pages.write(tmp_path)
    committed, generated = texts(REFERENCE), texts(tmp_path)
    stale = {
        name
        for name in committed.keys() | generated.keys()
        if committed.get(name) != generated.get(name)
    }
    assert stale == set(), "run `make reference` and commit"


def test_every_row_has_a_meaning() -> None:
    silent = [
        f"{name}: {line}"
        for name, text in texts(REFERENCE).items()
        for line in text.splitlines()
        if re.search(r"\|\s*\|$", line)
    ]
    assert silent == []


def test_every_verb_has_a_sentence() -> None:
    assert [command.title for command in tree() if not command.meaning] == []


def test_no_command_of_the_daemons_is_missing() -> None:
    verbs = {(program.name, program.verb) for program in PROGRAMS}
    assert verbs == {
        ("fednot-server", ""),
        *(("fednot-server", verb) for verb in COMMANDS),
        *(("fednot-client", verb) for verb in CLIENT),
    }


class Toy(Settings):
    """A toy."""

    place: str = Field(description="a place", json_schema_extra=POSITIONAL)
    size: ByteSize = Field(ByteSize(3 << 20), ge=1024, description="bytes | <all> of it")
    wait: float = Field(600.0, gt=0, lt=1e6, description="seconds a toy waits")
    loud: bool = Field(False, description="noise")


def test_a_setting_is_shown_by_flag_variable_and_key() -> None:
    assert list(rows(Program("toy", "", Toy, "TOY_"), Toy.model_fields)) == [
        ("`PLACE`", "required", "a text", "a place"),
        (
            "`--size`<br>`TOY_SIZE`<br>`size`",
            "`3MiB`",
            "bytes, from 1,024",
            r"bytes \| &lt;all> of it",
        ),
        (
            "`--wait`<br>`TOY_WAIT`<br>`wait`",
            "`600`",
            "s, above 0, below 1e+06",
            "seconds a toy waits",
        ),
        ("`--loud`, `--no-loud`<br>`TOY_LOUD`<br>`loud`", "no", "yes or no", "noise"),
    ]


def test_choices_and_optional_values() -> None:
    fields = ClientSettings.model_fields
    assert units.of(fields["data_channel"]) == "`auto` or `never`"
    assert units.of(fields["identity"]) == "a path"
    assert units.of(fields["task_arg"]) == "texts"


def test_the_variables_of_fednot_are_listed() -> None:
    page = configuration.page()
    for variable in ("FEDNOT_SERVER", "FEDNOT_IDENTITY", "FEDNOT_INSECURE", "FEDNOT_AUTHORITY"):
        assert f"| `{variable}` |" in page


def test_protos_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.proto").write_text("message {")
    with pytest.raises(CompilerError, match="could not read"):
        list(protos.read(tmp_path))
