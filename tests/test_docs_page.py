"""The OpenAPI page in a real browser: it renders, loads nothing from another host, and its request gets logits."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser import CHROMIUM
from tests.server import Server
from tests.tiny import write_tiny

SCREENSHOT = Path("test-output/docs-page.png")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_try_it_out_on_predict_returns_logits(tmp_path: Path, browser: Browser) -> None:
    write_tiny(tmp_path / "imdb" / "1", vocab_size=500)
    with Server(tmp_path) as server:
        page = browser.new_page(viewport={"width": 1200, "height": 1600})
        requested: list[str] = []
        problems: list[str] = []
        page.on("request", lambda request: requested.append(request.url))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{server.url}/docs")
        page.locator("#operations-predict-predict .opblock-summary-control").click()
        page.get_by_role("button", name="Try it out").click()
        page.get_by_role("button", name="Execute").click()
        reply = page.locator(".live-responses-table .response-col_description pre").first
        reply.wait_for()
        SCREENSHOT.parent.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOT, full_page=True)
        assert page.locator(".live-responses-table .response-col_status").last.inner_text().strip() == "200"
        assert '"logits"' in reply.inner_text()
        assert '"negative"' in reply.inner_text()
        version = page.evaluate("window.versions.swaggerUI.version")
        assert int(version.split(".")[0]) >= 5
        assert [url for url in requested if not url.startswith((server.url, "data:"))] == []
        assert problems == []
        page.close()
