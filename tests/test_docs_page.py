"""The OpenAPI page in a real browser: it renders, loads nothing from another host, and its request gets logits."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from service.keys import Key, digest, line
from tests.browser import CHROMIUM, watched_page
from tests.server import Server
from tests.tiny import write_tiny

SCREENSHOT = Path("test-output/docs-page.png")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")
def test_try_it_out_on_predict_returns_logits(tmp_path: Path, browser: Browser) -> None:
    write_tiny(tmp_path / "store/imdb/1", vocab_size=500)
    (tmp_path / "keys").write_text(line(Key("web", False), digest(b"lsk_web")))
    size = {"width": 1200, "height": 1600}
    with (
        Server(tmp_path / "store", LSTMSERVE_API_KEYS_FILE=str(tmp_path / "keys")) as server,
        watched_page(browser, server.url, viewport=size) as page,
    ):
        page.goto(f"{server.url}/docs")
        page.get_by_role("button", name="Authorize", exact=True).click()
        page.get_by_label("auth-bearer-value").first.fill("lsk_web")
        page.get_by_role("button", name="Apply credentials").first.click()
        page.get_by_role("button", name="Close", exact=True).first.click()
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
