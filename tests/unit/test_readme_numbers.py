"""What the README says in numbers is what the pages say that measured it, and what the code has."""

from __future__ import annotations

import re

from support.pages import ROOT

from server.methods import METHODS

README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
RESULTS = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
WORDS = {12: "Twelve", 13: "Thirteen", 14: "Fourteen", 15: "Fifteen"}
FIGURE = r"(\d+\.\d+) ± (\d+\.\d+)"


def row(start: str, part: int) -> str:
    """The row of a table of the section on CIFAR-10 that begins with some words."""
    section = RESULTS.partition("## CIFAR-10")[2].partition("\n## ")[0]
    found = [line for line in section.splitlines() if line.startswith(f"| {start}")]
    return found[part]


def average_gap(method: str) -> tuple[str, str]:
    """A method's average gap and its deviation, to one place."""
    mean, deviation = re.findall(FIGURE, row(method, 0))[-1]
    return f"{float(mean):.1f}", f"{float(deviation):.1f}"


def test_the_gaps_are_those_of_the_results() -> None:
    assert "after NoT is {} ± {} points".format(*average_gap("**NoT, first layer**")) in README
    assert "after fine-tuning {} ± {}".format(*average_gap("Fine-tune")) in README


def test_the_cost_is_the_one_of_the_results() -> None:
    [share, _], [flops, _] = re.findall(FIGURE, row("**NoT, first layer**", 1))[1:3]
    assert share == flops
    assert f"NoT takes {share} of retraining's bytes and FLOPs" in README


def test_the_speed_of_the_data_channel_is_the_one_that_was_measured() -> None:
    """Over mutual TLS, as served."""
    page = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    table = page.partition("Mutual TLS,")[2].partition("\n## ")[0]
    [channel] = re.findall(r"data channel\*\* \| \*\*([\d.]+) s", table)
    [grpc] = re.findall(r"fednot over gRPC \| ([\d.]+) s", table)
    share = f"{float(channel) / float(grpc):.2f}"
    assert f"moves models beside gRPC, in {share} of its time for a model of 100 MB" in README


def test_the_setting_is_the_one_of_the_results() -> None:
    [told] = re.findall(r"\((\d+ clients, [\d,]+ images, \d seeds)\)", README)
    clients, images, seeds = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d|\d", told))
    section = RESULTS.partition("## CIFAR-10")[2].partition("\n## ")[0]
    assert f", {clients} clients" in section
    assert f"{images:,} training" in section
    assert f"seeds {', '.join(map(str, range(seeds - 1)))} and {seeds - 1}" in section


def test_the_number_of_methods_is_the_one_of_the_code() -> None:
    others = len(METHODS) - 1
    assert f"{WORDS[others]} other methods" in README
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    named = {re.split(r"[\[`]", line)[1] for line in page.splitlines() if line.startswith("| `")}
    assert set(METHODS) <= named
