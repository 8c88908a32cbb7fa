"""The OpenAPI page: its files, and the page in a real browser, where it loads nothing from another host."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser
from starlette.testclient import TestClient

from service.keys import Key, digest, line
from tests.browser import CHROMIUM, watched_page
from tests.fake_engine import Fake, fake_app
from tests.server import Server
from tests.tiny import write_tiny

SCREENSHOT = Path("test-output/docs-page.png")
FILES = {
    "/docs/assets/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "/docs/assets/swagger-ui.css": "text/css; charset=utf-8",
    "/openapi.json": "application/json",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    store = tmp_path_factory.mktemp("store")
    write_tiny(store / "imdb/1")
    with Server(store, "--threads", "1") as server:
        yield server


@pytest.mark.parametrize(("path", "media"), FILES.items())
def test_a_file_is_sent_once_and_as_it_was_asked_for(server: Server, path: str, media: str) -> None:
    with httpx.Client(base_url=server.url) as client:
        plain = client.get(path, headers={"Accept-Encoding": "identity"})
        packed = client.get(path, headers={"Accept-Encoding": "br, gzip;q=0.5"})
        assert plain.content == packed.content
        assert (plain.headers["content-type"], plain.headers["vary"]) == (media, "Accept-Encoding")
        assert int(plain.headers["content-length"]) == len(plain.content)
        assert packed.headers["content-encoding"] == "gzip"
        assert int(packed.headers["content-length"]) < len(plain.content) / 2
        assert plain.headers["etag"] != packed.headers["etag"]
        for other in ("", "br", "gzip;q=0", "gzip; q=0.0"):
            reply = client.get(path, headers={"Accept-Encoding": other})
            assert "content-encoding" not in reply.headers
            assert reply.headers["etag"] == plain.headers["etag"]
        for reply in (plain, packed):
            sent = reply.request.headers["accept-encoding"]
            known = {"If-None-Match": f'"x", W/{reply.headers["etag"]}', "Accept-Encoding": sent}
            again = client.get(path, headers=known)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", reply.headers["etag"])
            head = client.head(path, headers={"Accept-Encoding": sent})
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == reply.headers["content-length"]


def test_there_is_no_other_file(server: Server) -> None:
    for name in ("", "none.js", "__init__.py", "..%2f__init__.py", "x/swagger-ui.css"):
        assert httpx.get(f"{server.url}/docs/assets/{name}").status_code == 404


def test_the_document_is_built_once(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    app = fake_app(fake)
    with TestClient(app) as client:
        first = client.get("/openapi.json")
        assert first.json() == app.openapi()
        monkeypatch.setattr(app, "openapi", lambda: pytest.fail("built again"))
        assert client.get("/openapi.json").content == first.content


def test_who_does_not_read_holds_no_file(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    with httpx.Client(base_url=server.url) as client, contextlib.ExitStack() as slow:

        def open_files() -> int:
            scrape = client.get("/metrics").text
            return next(
                int(float(row.split()[1])) for row in scrape.splitlines() if row.startswith("process_open_fds ")
            )

        before = open_files()
        for _ in range(20):
            one = slow.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect((host, int(port)))
            one.sendall(b"GET /docs/assets/swagger-ui-bundle.js HTTP/1.1\r\nHost: test\r\n\r\n")
            assert one.recv(1)
        assert open_files() == before + 20


@pytest.mark.anyio
async def test_a_file_is_written_a_piece_at_a_time(fake: Fake) -> None:
    """So that the connection can wait for its client between any two."""
    lengths: list[int] = []

    async def send(message: Any) -> None:
        lengths.append(len(message.get("body", b"")))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    path = "/docs/assets/swagger-ui-bundle.js"
    await fake_app(fake)(
        {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b"", "headers": []},
        receive,
        send,
    )
    assert sum(lengths) > 1_000_000
    assert max(lengths) <= 65536


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
