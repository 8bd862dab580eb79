"""The ratios of docs/performance.md follow from the seconds that stand beside them."""

from __future__ import annotations

import pytest
from support.pages import ROOT

PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
Cells = dict[str, list[str]]
RAW = "raw TCP: send, receive, add; no disk"


def table(after: str) -> Cells:
    """The rows of the first table behind some words, by their first cell."""
    lines = PAGE.partition(after)[2].splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("|"))
    rows: Cells = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        name, *cells = [cell.strip(" *") for cell in line.strip("|").split("|")]
        rows[name.partition(": the same bytes")[0]] = cells
    return rows


PLAIN, TLS = table("## A round"), table("Mutual TLS, the second group")


def seconds(cell: str) -> float:
    return float(cell.removesuffix(" s"))


def agrees(told: str, ratio: float) -> bool:
    """Whether a ratio is told to the places that stand there, give or take the last one's half."""
    places = len(told.partition(".")[2])
    return abs(float(told) - ratio) <= 0.5 * 10**-places + 0.01 * ratio


@pytest.mark.parametrize("name", [name for name in PLAIN if name != RAW])
def test_how_many_times_raw_tcp(name: str) -> None:
    large, times_large, _, small, times_small = PLAIN[name]
    assert agrees(times_large, seconds(large) / seconds(PLAIN[RAW][0]))
    assert not small or agrees(times_small, seconds(small) / seconds(PLAIN[RAW][3]))


@pytest.mark.parametrize("name", TLS)
def test_how_many_times_its_plaintext(name: str) -> None:
    large, small, told = TLS[name]
    times_large, times_small = told.split(", ")
    assert agrees(times_large, seconds(large) / seconds(PLAIN[name][0]))
    assert agrees(times_small, seconds(small) / seconds(PLAIN[name][3]))


def test_what_was_reached_repeats_the_tables() -> None:
    channel, grpc = TLS["fednot, data channel"][2], TLS["fednot over gRPC"][2]
    assert f"| {channel} | no; over gRPC yes: {grpc} |" in PAGE
    share = seconds(TLS["fednot, data channel"][0]) / seconds(TLS["fednot over gRPC"][0])
    assert f"the data channel over TLS takes {share:.2f} of gRPC over TLS" in PAGE
