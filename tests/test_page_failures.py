"""The demo page where there is no answer: what it says, and what it offers."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from service.keys import Key, digest, line
from tests.browser import CHROMIUM, CLASSIFY, STORE, classify, demo, watched_page
from tests.server import Server

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

REFUSALS = {
    403: "This API key may not do that",
    404: "No such model serves here",
    408: "The text was too long on its way",
    413: "The text is too large",
    422: "The service does not take this",
    500: "The service has failed",
    503: "The service is not ready",
    504: "The answer took too long",
}
SCREENSHOT = Path("test-output/page-wrong-key.png")
PASSING = {408, 500, 503, 504}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(STORE, "--max-body-bytes", "4096") as server:
        yield server.url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with demo(browser, url) as page:
        yield page


def refuse(page: Page, status: int, detail: str, **headers: str) -> None:
    """From now on the service refuses to classify."""
    problem = {"type": "about:blank", "title": "-", "status": status, "detail": detail, "request_id": "r-1"}
    headers = {"Content-Type": "application/problem+json", "X-Request-ID": "r-1", **headers}
    page.route(CLASSIFY, lambda route: route.fulfill(status=status, headers=headers, body=json.dumps(problem)))


def send(page: Page, text: str = "A good film.") -> None:
    page.get_by_role("textbox", name="Text").fill(text)
    page.get_by_role("button", name="Classify").click()


@pytest.mark.parametrize(
    ("text", "title"),
    [("", "There is nothing to read"), (" \n", "There is nothing to read"), ("zzxxq", "None of these words is known")],
)
def test_a_text_without_an_answer_is_told_why(page: Page, text: str, title: str) -> None:
    detail = classify(page, text)["error"]["detail"]
    expect(page.get_by_role("alert").get_by_role("heading")).to_have_text(title)
    expect(page.get_by_role("alert")).to_contain_text(detail[1:])
    expect(page.get_by_role("alert").get_by_role("button")).to_have_count(0)


def test_a_text_over_the_limit_of_the_body_is_refused_by_the_service(page: Page) -> None:
    send(page, "good film " * 500)
    expect(page.get_by_role("alert")).to_contain_text("The text is too large")
    said = page.get_by_role("alert").locator("h2 + p")
    expect(said).to_have_text("The text is over the limit of 4,096 bytes.")  # and not which setting raises it


def test_of_a_text_of_too_many_bytes_no_part_is_offered(page: Page) -> None:
    detail = "the text has 5000 bytes, at most 4096 are read (LSTMSERVE_MAX_TEXT_BYTES): shorten it"
    document = {"results": [{"error": {"code": "too_long", "detail": detail}}]}
    page.route(CLASSIFY, lambda route: route.fulfill(json=document))
    send(page)
    said = page.get_by_role("alert").locator("h2 + p")
    expect(said).to_have_text("The text has 5,000 bytes, at most 4,096 are read.")
    expect(page.get_by_role("alert").get_by_role("button")).to_have_count(0)


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_is_told_in_the_service_s_words(page: Page, status: int) -> None:
    classify(page, "A good film.")
    refuse(page, status, "the reason, and the remedy")
    send(page)
    alert = page.get_by_role("alert")
    expect(alert.get_by_role("heading")).to_have_text(REFUSALS[status])
    expect(alert).to_contain_text("The reason, and the remedy.")
    expect(alert).to_contain_text("Request r-1")
    expect(alert.get_by_role("button", name="Try again")).to_have_count(int(status in PASSING))
    expect(page.get_by_role("region", name="Explanation")).to_be_hidden()
    expect(page.get_by_role("status")).to_be_empty()


def test_a_busy_service_says_how_long_to_wait(page: Page) -> None:
    page.clock.install()
    refuse(page, 429, "too much is waiting", **{"Retry-After": "3"})
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("Too much is waiting. It asks to wait 3 seconds.")
    again = page.get_by_role("button", name="Try again")
    expect(again).to_be_disabled()
    page.clock.fast_forward(3100)
    expect(again).to_be_enabled()
    page.unroute(CLASSIFY)
    again.click()
    expect(page.locator(".label")).to_contain_text("positive")


def test_a_reply_of_something_else_is_not_taken_for_the_service_s(page: Page) -> None:
    page.route(CLASSIFY, lambda route: route.fulfill(status=502, content_type="text/html", body="<h1>Bad</h1>"))
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("The service answered with 502")
    expect(page.get_by_role("button", name="Try again")).to_be_enabled()


@pytest.mark.parametrize("status", [200, 422])
@pytest.mark.parametrize("document", [{}, [], None, {"detail": [{"msg": "no"}]}, {"results": [{"label": "a"}]}])
def test_a_document_of_something_else_is_not_taken_either(page: Page, status: int, document: object) -> None:
    classify(page, "A good film.")
    page.route(CLASSIFY, lambda route: route.fulfill(status=status, json=document))
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("What came back is not from the service")
    expect(page.locator(".label")).to_have_count(0)


@pytest.mark.parametrize(
    ("document", "title", "retries"),
    [
        ({}, "The service answered with 200", 0),
        ([{}], "The service answered with 200", 0),
        ([], "No model serves now", 1),
        ([{"name": "ids", "tokenizer": None}], "No model here reads texts", 0),
    ],
)
def test_a_list_without_a_model_that_reads_texts(
    browser: Browser, url: str, document: object, title: str, retries: int
) -> None:
    with watched_page(browser, url) as page:
        page.route("**/models", lambda route: route.fulfill(json=document))
        page.goto(url)
        expect(page.get_by_role("alert").get_by_role("heading")).to_have_text(title)
        expect(page.get_by_role("button", name="Try again")).to_have_count(retries)


def test_the_network_may_be_gone_and_come_back(page: Page) -> None:
    page.context.set_offline(True)
    send(page)
    again = page.get_by_role("button", name="Try again")
    again.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").get_by_role("heading")).to_be_focused()  # of the second failure
    page.context.set_offline(False)
    again.click()
    expect(page.locator(".label")).to_contain_text("positive")
    expect(page.locator(".label")).to_be_focused()


def test_the_page_opens_though_the_models_cannot_be_listed_yet(browser: Browser, url: str) -> None:
    with watched_page(browser, url) as page:
        page.route("**/models", lambda route: route.abort())
        page.goto(url)
        expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached")
        page.unroute("**/models")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator("#about")).to_contain_text("imdb")
        expect(page.get_by_role("alert")).to_have_count(0)
        expect(page.locator(".empty")).to_be_visible()
        expect(page.get_by_role("textbox", name="Text")).to_be_focused()


def test_the_key_is_asked_for_and_kept(page: Page) -> None:
    sent: list[str | None] = []

    def guard(route: Route) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer k-1":
            route.continue_()
        else:
            route.fulfill(status=401, headers={"WWW-Authenticate": "Bearer"}, json={"detail": "no API key was sent"})

    page.route(CLASSIFY, guard)
    key = page.get_by_role("textbox", name="API key")
    toggle = page.get_by_role("button", name="API key")
    expect(key).to_be_hidden()
    expect(toggle).to_be_hidden()  # the service may need none
    send(page)
    expect(page.get_by_role("alert")).to_contain_text("Type your key above, then Enter.")
    expect(key).to_be_focused()
    page.keyboard.type(" k-1é")
    page.keyboard.press("Enter")
    expect(page.locator(".label")).to_contain_text("positive")
    assert sent == [None, "Bearer k-1"]
    page.reload()
    expect(page.locator("#about")).not_to_be_empty()
    send(page)
    expect(page.locator(".label")).to_contain_text("positive")
    assert sent[2:] == ["Bearer k-1"]
    toggle.click()
    expect(key).to_have_value("k-1")
    toggle.click()
    expect(key).to_be_hidden()
    toggle.click()
    page.keyboard.press("Escape")
    expect(key).to_be_hidden()
    expect(toggle).to_be_focused()


def test_a_service_may_ask_for_the_key_before_it_names_its_models(browser: Browser, url: str) -> None:
    def guard(route: Route) -> None:
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            route.fulfill(status=401, json={"detail": "no API key was sent"})

    with watched_page(browser, url) as page:
        page.route("**/models", guard)
        page.goto(url)
        expect(page.get_by_role("textbox", name="API key")).to_be_focused()
        page.keyboard.type("k-1")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("imdb")
        expect(page.get_by_role("alert")).to_have_count(0)


def test_real_keys(browser: Browser, tmp_path: Path) -> None:
    lines = [line(Key(name, False), digest(f"lsk_{name}".encode())) for name in ("web", "ops")]
    (tmp_path / "keys").write_text(lines[0])
    (tmp_path / "admins").write_text(lines[1])
    files = {
        f"LSTMSERVE_{kind}_KEYS_FILE": str(tmp_path / name) for kind, name in (("API", "keys"), ("ADMIN", "admins"))
    }
    with Server(STORE, **files) as server, watched_page(browser, server.url) as page:
        page.goto(server.url)
        key, alert = page.get_by_role("textbox", name="API key"), page.get_by_role("alert")
        expect(alert.get_by_role("heading")).to_have_text("An API key is needed")
        expect(alert.get_by_role("paragraph").first).to_have_text("Type your key above, then Enter.")
        for sent, title in {
            "lsk_wrong": "This API key is not known",
            "lsk_ops": "This API key may not do that",
        }.items():
            key.fill(sent)
            page.keyboard.press("Enter")
            expect(alert.get_by_role("heading")).to_have_text(title)
            if sent == "lsk_wrong":
                expect(key).to_be_focused()
                expect(alert).to_contain_text(
                    "It may be mistyped, or have been removed: type your key above, then Enter."
                )
                SCREENSHOT.parent.mkdir(exist_ok=True)
                page.screenshot(path=SCREENSHOT)
        key.fill("lsk_web")
        page.keyboard.press("Enter")
        expect(page.locator("#about")).to_contain_text("imdb")
        expect(alert).to_have_count(0)
        expect(page.locator("#card")).to_be_hidden()  # a link would be refused
        send(page)
        expect(page.locator(".label")).to_contain_text("positive")
        assert page.evaluate("[...Object.values(sessionStorage), localStorage.length, document.cookie]") == [
            "lsk_web",
            0,
            "",
        ]
        assert "lsk_web" not in page.url + page.content()
