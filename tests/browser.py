"""A real Chromium, and pages in it that notice what must not happen."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

STORE = Path("models/store")
CLASSIFY = "**/classify"

REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`refused by the policy: ${event.effectiveDirective} ${event.blockedURI}`));
"""


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )


@contextlib.contextmanager
def watched_page(browser: Browser, host: str, **context: Any) -> Iterator[Page]:
    """A page whose use must request nothing of another host, log no error, break no policy and open no dialog."""
    with contextlib.closing(browser.new_context(**context)) as opened:
        page = opened.new_page()
        page.set_default_timeout(20_000)
        page.add_init_script(REPORT_VIOLATIONS)
        problems: list[str] = []

        def hear(message: ConsoleMessage) -> None:
            answered = message.text.startswith("Failed to load resource") and "/models" in message.location["url"]
            if message.type in ("error", "warning") and not answered:  # a refused request is the page's to show
                problems.append(message.text)

        page.on("console", hear)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on(
            "request",
            lambda request: None if request.url.startswith((host, "data:")) else problems.append(request.url),
        )
        yield page
        assert problems == []


@contextlib.contextmanager
def demo(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """The demo page of the service at `url`, which has told of its models."""
    with watched_page(browser, url, **context) as page:
        page.goto(url)
        expect(page.locator("#about")).not_to_be_empty()
        yield page


def classify(page: Page, text: str) -> dict[str, Any]:
    """Sends the text from the demo page; the service's result, with its times, when the page shows it."""
    page.get_by_role("textbox", name="Text").fill(text)
    with page.expect_response(CLASSIFY) as response:
        page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("region", name="Result")).to_have_attribute("aria-busy", "false")
    result: dict[str, Any] = response.value.json()["results"][0]
    return result | {"timing": response.value.headers["server-timing"]}


def figures(page: Page, place: str) -> list[float]:
    """The exact values of the figures in a place on the page."""
    return [
        float(value) for value in page.locator(f"{place} >> data").evaluate_all("(all) => all.map((one) => one.value)")
    ]
