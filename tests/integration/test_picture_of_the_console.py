"""Real digits in a real browser: a client is deleted by the form, and the page says that it passed.

What it sees is docs/console.png; FEDNOT_SCREENSHOTS names the folder for a new one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from support.federation import ROOT, LocalFederation
from support.ports import free_port
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity.subject import Role

CHROMIUM = shutil.which("chromium")
PATIENCE = 120_000
TASK = ("--task", f"{ROOT / 'examples' / 'digits.py'}:DigitsTask")
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


def signed_in(federation: LocalFederation, chromium: Browser) -> Page:
    identity = str(federation.identity_of(Role.OFFICER, "dora"))
    words = ["console", "--server", federation.address, "--identity", identity]
    found = CliRunner().invoke(app, words)
    assert found.exit_code == 0, found.output
    size = {"width": 1100, "height": 800}
    page = chromium.new_context(ignore_https_errors=True, viewport=size).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(PATIENCE)
    page.goto(next(line for line in found.stdout.splitlines() if line.startswith("https://")))
    page.wait_for_selector("h1:has-text('Federation')")
    return page


def test_a_deletion_of_real_digits_passes_before_the_officers_eyes(tmp_path: Path) -> None:
    console = f"127.0.0.1:{free_port()}"
    flags = (*TASK, "--console-address", console, "--min-clients", "2", "--verification-wait", "60")
    with (
        LocalFederation(tmp_path, task=False, server_flags=flags) as federation,
        sync_playwright() as playwright,
    ):
        federation.start_server()
        for index in range(3):
            shard = ("--task-arg", f"shard={index}/3", "--torch-threads", "1")
            federation.start_plain_client(index, *TASK, *shard)
        federation.await_connected(3)
        federation.start_training(10)
        federation.await_run(200)
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = signed_in(federation, chromium)
        page.click("text=Deletions")
        page.click("text=Ask for a deletion")
        page.fill("#client", "c2")
        page.click("text=See what will happen")
        page.click("text=Confirm: forget client c2")
        page.wait_for_selector("text=Download the receipt")
        assert "behaviour PASS, depth PASS" in page.inner_text("main")
        if folder := os.environ.get("FEDNOT_SCREENSHOTS"):
            page.screenshot(path=str(Path(folder) / "console.png"))
        with page.expect_download() as download:
            page.click("text=Download the receipt")
        assert download.value.path().read_text().count(".") == 2
        chromium.close()
