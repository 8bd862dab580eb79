"""The console's script in a real browser, on pages of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import count

import pytest
from playwright.sync_api import Page, Route, sync_playwright

from server.console.rendering import static_files

CHROMIUM = shutil.which("chromium")
PATIENCE = 60_000
LIVE = """<!doctype html>
<span id="freshness"></span>
<div data-live id="live"><p>{number}</p><a href="/there">a link</a></div>
<script src="/console.js" defer></script>
"""
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture
def page() -> Iterator[Page]:
    """A page whose live part is another one whenever it is asked for."""
    numbers = count(1)
    script, kind = static_files()["console.js"]

    def answer(route: Route) -> None:
        if route.request.url.endswith(".js"):
            route.fulfill(body=script, content_type=kind)
        elif route.request.url.endswith("/live"):
            route.fulfill(body=LIVE.format(number=next(numbers)), content_type="text/html")
        else:
            route.fulfill(body="<h1>There</h1>", content_type="text/html")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page()
        found.set_default_timeout(PATIENCE)
        found.route("**/*", answer)
        found.goto("http://console.example/live")
        yield found
        browser.close()


def test_a_link_that_is_pressed_as_the_page_refreshes_itself_is_followed(page: Page) -> None:
    page.locator("a").hover()
    page.mouse.down()
    with page.expect_response("**/live") as fresh:
        pass
    fresh.value.finished()
    page.wait_for_timeout(300)
    page.mouse.up()
    page.wait_for_url("**/there")


def test_the_page_refreshes_itself_again_once_nothing_is_pressed(page: Page) -> None:
    page.locator("p").hover()
    page.mouse.down()
    with page.expect_response("**/live"):
        pass
    page.mouse.up()
    page.wait_for_function("Number(document.querySelector('p').textContent) >= 3")
