"""A verb with verbs below it: `fednot clients` lists, `fednot clients readmit` readmits."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from fednot.cli.groups import unless_below


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def app(told: list[str]) -> typer.Typer:
    root, group = typer.Typer(), typer.Typer()

    @group.callback(invoke_without_command=True)
    @unless_below
    def things(limit: int = 5) -> None:
        """List things."""
        told.append(f"list {limit}")

    @group.command()
    def drop(name: str, limit: int = 7) -> None:
        told.append(f"drop {name} {limit}")

    root.add_typer(group, name="things")
    root.command("other")(lambda: None)
    return root


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["things"], "list 5"),
        (["things", "--limit", "3"], "list 3"),
        (["things", "drop", "x"], "drop x 7"),
        (["things", "drop", "x", "--limit", "3"], "drop x 3"),
    ],
)
def test_each_does_its_own(
    app: typer.Typer, told: list[str], line: list[str], expected: str
) -> None:
    assert CliRunner().invoke(app, line).exit_code == 0
    assert told == [expected]


def test_an_option_of_the_group_is_not_lost_on_a_verb_below_it(
    app: typer.Typer, told: list[str]
) -> None:
    """`fednot clients --server A readmit x` must not go to the default server."""
    result = CliRunner().invoke(app, ["things", "--limit", "3", "drop", "x"])
    assert result.exit_code == 2
    assert "options go behind the verb" in result.stderr
    assert told == []


def test_its_help_is_that_of_the_verb(app: typer.Typer) -> None:
    assert "List things." in CliRunner().invoke(app, ["things", "--help"]).stdout
