"""The console in a real browser, over HTTPS, against a federation of processes.

Screenshots go to the folder that FEDNOT_SCREENSHOTS names, if it is set.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from support.federation import LocalFederation
from support.ports import free_port
from typer.testing import CliRunner

from fednot.cli.main import app
from fednot.identity.subject import Role
from fednot.v1 import deletion_pb2

CHROMIUM = shutil.which("chromium")
PATIENCE = 90_000
TABS = 60
PAGES = (
    *("/", "/rounds", "/clients", "/deletions", "/deletions/new"),
    *("/approvals", "/versions", "/audit"),
)
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    """Three clients that have trained twelve rounds, and hold unseen digits to verify with."""
    console = f"127.0.0.1:{free_port()}"
    flags = ("--console-address", console, "--min-clients", "2", "--recovery-max-rounds", "12")
    with LocalFederation(tmp_path_factory.mktemp("console"), server_flags=flags) as found:
        found.start_server()
        for index in range(3):
            found.start_client(index, "client_test=yes")
        found.await_connected(3)
        found.train(12)
        yield found


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def link_of(federation: LocalFederation, role: Role, name: str) -> str:
    identity = str(federation.identity_of(role, name))
    found = CliRunner().invoke(
        app, ["console", "--server", federation.address, "--identity", identity]
    )
    assert found.exit_code == 0, found.output
    return next(line for line in found.stdout.splitlines() if line.startswith("https://"))


def opened(
    federation: LocalFederation,
    chromium: Browser,
    role: Role = Role.OFFICER,
    *,
    width: int = 1100,
    dark: bool = False,
) -> Page:
    """A page that has signed in by a link of the CLI."""
    context = chromium.new_context(
        ignore_https_errors=True,
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
    )
    page = patient(context.new_page())
    page.goto(link_of(federation, role, "dora" if role is Role.OFFICER else "olga"))
    page.wait_for_selector("h1:has-text('Federation')")
    page.wait_for_load_state()
    return page


def patient(page: Page) -> Page:
    """A page that waits for as long as a busy machine takes."""
    page.set_default_timeout(PATIENCE)
    return page


def kept(page: Page, name: str) -> None:
    folder = os.environ.get("FEDNOT_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def at(page: Page, path: str) -> str:
    return page.url.split("/", 3)[0] + "//" + page.url.split("/", 3)[2] + path


def tab_to(page: Page, words: str) -> None:
    """Presses the tabulator until the focus, which can be seen, is on what has the words."""
    passed = []
    for _ in range(TABS):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => {
              const at = document.activeElement, style = getComputedStyle(at);
              const words = at === document.body ? "" : at.innerText;
              return [at.labels?.[0]?.innerText || words || "",
                      style.outlineStyle + " " + style.outlineWidth];
            }"""
        )
        passed.append(found[0])
        if words in found[0]:
            assert found[1] == "solid 3px", f"the focus on {words} cannot be seen: {found[1]}"
            return
    raise AssertionError(f"no way to {words} by the tabulator, only past {passed}")


def test_a_link_of_the_cli_signs_in_once(federation: LocalFederation, chromium: Browser) -> None:
    link = link_of(federation, Role.OPERATOR, "olga")
    first = patient(chromium.new_context(ignore_https_errors=True).new_page())
    first.goto(link)
    first.wait_for_selector("text=operator/olga")
    first.wait_for_load_state()
    assert link.partition("#")[2] not in first.url
    assert "accuracy" in first.inner_text("main").lower()
    assert first.locator("svg[role=img] circle").count() >= 2
    assert not first.locator("text=Ask for a deletion").count()
    second = patient(chromium.new_context(ignore_https_errors=True).new_page())
    second.goto(link)
    second.wait_for_selector("text=was used before")
    first.click("text=Sign out")
    first.wait_for_selector("h1:has-text('Sign in')")
    first.goto(at(first, "/"))
    first.wait_for_selector("h1:has-text('Sign in')")


def test_a_browser_with_the_certificate_needs_no_link(
    federation: LocalFederation, chromium: Browser
) -> None:
    folder = federation.identity_of(Role.AUDITOR, "ada")
    link = link_of(federation, Role.AUDITOR, "ada")
    origin = link.partition("/sign-in")[0]
    shown = {
        "origin": origin,
        "certPath": str(folder / "cert.pem"),
        "keyPath": str(folder / "key.pem"),
    }
    context = chromium.new_context(ignore_https_errors=True, client_certificates=[shown])  # type: ignore[list-item]
    page = patient(context.new_page())
    page.goto(origin)
    page.wait_for_selector("text=auditor/ada")
    assert not page.locator("text=Sign out").count()


def test_the_page_follows_a_round_that_runs(federation: LocalFederation, chromium: Browser) -> None:
    page = opened(federation, chromium)
    circles = page.locator("svg[role=img] circle")
    before = circles.count()
    page.evaluate("window.same = true")
    page.wait_for_timeout(300)
    federation.train(2)
    circles.nth(before + 1).wait_for(state="attached")
    assert page.evaluate("window.same") is True, "the page was loaded anew"
    kept(page, "overview")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_can_be_read(federation: LocalFederation, chromium: Browser, dark: bool) -> None:
    page = opened(federation, chromium, dark=dark)
    for path in PAGES:
        page.goto(at(page, path))
        contrast = page.evaluate(CONTRAST)
        assert contrast["lowest"] >= 4.5, f"{path}: {contrast}"
        assert contrast["dark"] is dark
        assert page.evaluate("[...document.images].length") == 0
        assert page.locator("h1").count() == 1
        assert page.locator("main").count() == 1
    page.goto(at(page, "/"))
    kept(page, "overview-dark" if dark else "overview-light")


def test_nothing_is_wider_than_a_narrow_screen(
    federation: LocalFederation, chromium: Browser
) -> None:
    page = opened(federation, chromium, width=360)
    for path in PAGES:
        page.goto(at(page, path))
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.goto(at(page, "/"))
    kept(page, "overview-narrow")


def test_a_deletion_by_the_keyboard_alone(federation: LocalFederation, chromium: Browser) -> None:
    page = opened(federation, chromium)
    page.goto(at(page, "/deletions"))
    page.evaluate("document.activeElement.blur()")
    tab_to(page, "Ask for a deletion")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deletions/new")
    tab_to(page, "A client as a whole")
    tab_to(page, "Client")
    page.keyboard.type("c2")
    tab_to(page, "See what will happen")
    kept(page, "form")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deletions/review")
    assert "Client c2 is barred from every later round at once" in page.inner_text("main")
    tab_to(page, "Confirm: forget client c2")
    kept(page, "confirmation")
    page.keyboard.press("Enter")
    page.wait_for_url("**/deletions/job-*")
    page.wait_for_selector("text=Download the receipt")
    kept(page, "deletion")
    with page.expect_download() as download:
        tab_to(page, "Download the receipt")
        page.keyboard.press("Enter")
    assert download.value.suggested_filename.endswith(".jws")
    assert download.value.path().read_text().count(".") == 2


def test_a_second_officer_approves_by_the_keyboard_on_a_narrow_screen(
    tmp_path: Path, chromium: Browser
) -> None:
    console = f"127.0.0.1:{free_port()}"
    flags = ("--console-address", console, "--require-approval")
    with LocalFederation(tmp_path, server_flags=flags) as federation:
        federation.start_server()
        federation.start_client(0)
        federation.await_connected(1)
        scope = deletion_pb2.Scope(client="c0")
        request = deletion_pb2.UnlearnRequest(scope=scope, request_id="r1")
        officer = federation.stubs_for(Role.OFFICER, "emil").deletions
        officer.Unlearn(request, timeout=PATIENCE / 1000)
        page = opened(federation, chromium, width=360, dark=True)
        tab_to(page, "Approvals")
        page.keyboard.press("Enter")
        page.wait_for_url("**/approvals")
        tab_to(page, "What needs or needed a second identity")
        tab_to(page, "approval-")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Approve the deletion")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        contrast = page.evaluate(CONTRAST)
        assert contrast["lowest"] >= 4.5, contrast
        kept(page, "approval-narrow")
        page.evaluate("document.activeElement.blur()")
        tab_to(page, "Approve the deletion")
        page.keyboard.press("Enter")
        page.wait_for_selector("text=by officer/dora")
        assert federation.deletion("r1").job.phase != deletion_pb2.JOB_PHASE_AWAITING


CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length < 4 || found[3] > 0) return found;
    }
    return [255, 255, 255];
  };
  let lowest = 21, where = "";
  const read = "h1, h2, p, a, td, th, dt, dd, label, button, text";
  for (const each of document.querySelectorAll(read)) {
    const style = getComputedStyle(each), svg = each.tagName === "text";
    const ink = light(parts(svg ? style.fill : style.color)), paper = light(behind(each));
    const found = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (found < lowest) { lowest = found; where = each.outerHTML.slice(0, 80); }
  }
  return { lowest, where, dark: light(behind(document.body)) < 0.2 };
}"""
