"""What excludes secure aggregation: each row is refused at the start, and stands in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fednot.secure_aggregation.terms import threshold_of
from fednot.settings import SettingsError, load
from server.exclusions import WITH_SECURE_AGGREGATION, Exclusion
from server.settings import ENVIRONMENT_PREFIX, ServerSettings

DOCS = Path(__file__).parents[2] / "docs" / "secure-aggregation.md"
SOUND = ("--secure-aggregation", "--min-clients", "3", "--task", "t.py:T", "--authority", "a")
AGAINST = {
    "--insecure": ("--insecure",),
    "--min-clients below 3": ("--min-clients", "2"),
    "--aggregation other than mean": ("--aggregation", "median"),
    "--recovery-aggregation other than mean": ("--recovery-aggregation", "multi-krum"),
    "--clip-norm": ("--clip-norm", "1.5"),
    "--codecs": ("--codecs", "topk"),
    "--keep-updates": ("--keep-updates", "1"),
}


def read(*arguments: str) -> ServerSettings:
    return load(
        ServerSettings,
        program="fednot-server",
        prefix=ENVIRONMENT_PREFIX,
        arguments=arguments,
        environment={},
    )


@pytest.mark.parametrize("row", WITH_SECURE_AGGREGATION, ids=lambda row: row.second)
def test_each_row_is_refused_with_its_reason_and_what_to_do(row: Exclusion) -> None:
    with pytest.raises(SettingsError) as caught:
        read(*SOUND, *AGAINST[row.second])
    assert str(caught.value) == row.sentence
    assert row.sentence.startswith(f"--secure-aggregation excludes {row.second}: ")
    assert row.reason in row.sentence
    assert row.remedy in row.sentence


@pytest.mark.parametrize("flags", AGAINST.values(), ids=AGAINST)
def test_each_is_taken_without_secure_aggregation(flags: tuple[str, ...]) -> None:
    identity = () if flags == ("--insecure",) else ("--authority", "a")
    common = ("--task", "t.py:T", *identity, "--min-clients", "5")
    assert not read(*common, *flags).secure_aggregation


def test_the_least_clients_of_a_server_that_says_nothing_are_too_few() -> None:
    with pytest.raises(SettingsError, match="give --min-clients 3 or more"):
        read("--secure-aggregation", "--task", "t.py:T", "--authority", "a")


def test_sound_settings_are_taken() -> None:
    found = read(*SOUND, "--mask-range", "4", "--mask-wait", "7", "--recovery-aggregation", "mean")
    assert (found.secure_aggregation, found.mask_range, found.mask_wait) == (True, 4.0, 7.0)


def test_the_documented_table_is_the_one_that_is_gone_by() -> None:
    """And the three exclusions that no setting shows stand below it, in prose."""
    rows = {f"| `{row.first}` | {row.second} | {row.reason} |" for row in WITH_SECURE_AGGREGATION}
    table = DOCS.read_text().split("| option | excludes | reason |")[1].strip().splitlines()[1:]
    found = set(table[: len(rows)])
    assert found == rows
    assert not table[len(rows)].startswith("|"), "a row that nothing refuses"


def test_the_threshold_is_that_of_the_paper() -> None:
    """floor(2n/3) + 1 of n, and above half, so that no two lists can both be confirmed."""
    assert [threshold_of(n) for n in (3, 4, 5, 6, 7, 10, 100)] == [3, 3, 4, 5, 5, 7, 67]
    assert all(2 * threshold_of(n) > n for n in range(3, 200))
