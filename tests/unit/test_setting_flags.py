"""The help of a daemon: groups by topic, what stands for a value, defaults as they are typed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import ByteSize, Field

from client.settings import ClientSettings
from fednot.setting_flags import default_text, groups, metavar, parser
from fednot.settings import Settings
from server.settings import ServerSettings


class Wheels(Settings):
    """Wheels. And what turns them."""

    address: str = Field("", description="HOST:PORT of the wheel")
    spokes: int = Field(7, description="how many, 100 % of them")
    kind: Literal["", "round", "square"] = Field("", description="what it is")


class Engine(Settings):
    """Engine."""

    warm_up: float | None = Field(600.0, description="seconds before it runs")
    fuel: ByteSize = Field(ByteSize(3 << 20), description="bytes of it")
    belt: tuple[str, ...] = Field(("a", "b"), description="KEY=VALUE of belts")
    loud: bool = Field(True, description="noise")
    manual: Path | None = Field(None, description="folder of it")
    quiet: bool = Field(False, description="no noise")


class Car(Engine, Wheels):
    """A car."""

    name: str = Field(description="whose")


def test_a_group_is_a_base_in_the_order_of_the_bases() -> None:
    assert {title: list(fields) for title, fields in groups(Car).items()} == {
        "": ["name"],
        "Engine": ["warm_up", "fuel", "belt", "loud", "manual", "quiet"],
        "Wheels": ["address", "spokes", "kind"],
    }


@pytest.mark.parametrize(
    ("name", "stands", "default"),
    [
        ("address", "HOST:PORT", ""),
        ("spokes", "N", "7"),
        ("kind", "{round,square}", ""),
        ("warm_up", "SECONDS", "600"),
        ("fuel", "BYTES", "3MiB"),
        ("belt", "KEY=VALUE", "a b"),
        ("loud", "TEXT", "yes"),
        ("manual", "FOLDER", ""),
        ("quiet", "TEXT", "no"),
        ("name", "TEXT", ""),
    ],
)
def test_what_stands_for_a_value_and_what_its_default_is(
    name: str, stands: str, default: str
) -> None:
    field = Car.model_fields[name]
    assert (metavar(field), default_text(field)) == (stands, default)


def test_the_help_shows_groups_values_and_defaults() -> None:
    text = " ".join(parser(Car, "car", "car 1").format_help().split())
    assert text.startswith("usage: car [--FLAG VALUE ...] A car.")
    assert "Wheels: --address HOST:PORT HOST:PORT of the wheel --spokes N how many" in text
    assert "100 % of them (default 7)" in text
    assert "--fuel BYTES bytes of it (default 3MiB)" in text
    assert "--quiet, --no-quiet no noise Wheels" in text


@pytest.mark.parametrize("kind", [ServerSettings, ClientSettings])
def test_every_setting_of_a_daemon_is_in_a_group_with_a_title(kind: type[Settings]) -> None:
    found = groups(kind)
    assert "" not in found
    assert all(len(fields) <= 12 for fields in found.values()), "a group that nobody reads"
    assert sorted(name for fields in found.values() for name in fields) == sorted(kind.model_fields)
