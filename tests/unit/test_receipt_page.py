"""The page of a receipt: whole, by itself, and safe whatever names it shows."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from support.receipts import golden_key, sample_receipt, sha

from fednot.receipt import page_of
from fednot.receipt.page import VERDICTS
from fednot.receipt.payload import Judgement, KeptUpdates
from fednot.receipt.plots import loss_plot, recovery_plot

VOID = {"meta", "line", "circle", "polyline", "br"}


class Reader(HTMLParser):
    """Collects the tags with their attributes, and checks that they are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_stands_by_itself() -> None:
    page = page_of(sample_receipt())
    tags = Reader(page).tags
    assert not {"script", "link", "img", "iframe", "a", "form"} & {tag for tag, _ in tags}
    assert not [attrs for _, attrs in tags if {"src", "href", "onload"} & set(attrs)]
    assert "url(" not in page
    assert "@import" not in page
    assert "http://" not in page.replace("http-equiv", "")
    assert "https://" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page
    assert "size: A4" in page


def test_it_tells_a_reader_and_a_screen_reader() -> None:
    receipt = sample_receipt()
    found = Reader(page_of(receipt))
    assert ("html", {"lang": "en"}) in found.tags
    labels = [attrs["aria-label"] for tag, attrs in found.tags if tag == "svg"]
    assert [str(label).partition(":")[0] for label in labels] == ["Recovery", "Losses"]
    assert all(attrs.get("scope") == "row" for tag, attrs in found.tags if tag == "th")
    for said in (receipt.job_id, "Behaviour: PASS", "Depth: PASS", receipt.base.sha256, "class 7"):
        assert said in found.text
    assert "17 samples of client p-" in found.text
    assert "not proven" in found.text


def test_a_fail_is_in_words_too() -> None:
    judged = Judgement(verdict="fail", reason="the undo attack brings it back")
    found = Reader(page_of(sample_receipt(depth=judged)))
    assert "Depth: FAIL" in found.text
    assert "the undo attack brings it back" in found.text
    assert set(VERDICTS) == {"pass", "fail", "not-possible"}


def test_steps_and_destroyed_updates_are_told_if_there_were_any() -> None:
    whole = sample_receipt()
    stepped = whole.chosen.model_copy(update={"steps": 3})
    kept = KeptUpdates(count=6, num_bytes=3000, sha256=sha("updates"))
    found = Reader(page_of(sample_receipt(attempts=(stepped,), kept_updates=kept))).text
    assert "after 3 steps of its method and 3 rounds with 4 clients" in found
    assert f"6 of clients, 3000 bytes; over their hashes: {kept.sha256}" in found
    bare = Reader(page_of(whole)).text
    assert "steps" not in bare
    assert "Kept updates" not in bare


def test_what_a_caller_wrote_is_text() -> None:
    evil = "<script>alert(1)</script>"
    page = page_of(sample_receipt(request_ids=(evil,)))
    assert "<script" not in page
    assert evil in Reader(page).text


def test_without_verification_and_rounds_there_are_no_plots() -> None:
    whole = sample_receipt()
    bare = whole.chosen.model_copy(update={"rounds": (), "verification": None})
    receipt = sample_receipt(attempts=(bare,))
    assert recovery_plot(receipt) is None
    assert loss_plot(None) is None
    assert "<svg" not in page_of(receipt)


def test_the_plots_say_what_they_show_and_stay_in_their_frame() -> None:
    receipt = sample_receipt(golden_key())
    recovery, losses = recovery_plot(receipt), loss_plot(receipt.chosen.verification)
    assert recovery is not None
    assert losses is not None
    assert "0.810 after the first, 0.957 after the last, target 0.950" in recovery.says
    assert "Losses of 120 forgotten samples" in losses.says
    for line in (*recovery.lines, *losses.lines):
        for x, y in re.findall(r"([\d.]+),([\d.]+)", line):
            assert 34 <= float(x) <= 312
            assert 8 <= float(y) <= 126
    assert len(recovery.dots) == 3
