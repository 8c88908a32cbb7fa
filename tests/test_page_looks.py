"""The demo page's looks, and how it is served: contrast, names, narrow screens, headers."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from service.routes.page import router
from tests.browser import CHROMIUM, CLASSIFY, STORE, classify, demo
from tests.server import Server

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

SCREENSHOTS = Path("test-output")
REVIEW = (
    "I wanted to like it. The cast is fine, but the script is dull, every scene runs too long, and by the second "
    "hour I was watching the clock instead of the screen. A waste of a good idea."
)

CONTRASTS = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (colours) => {  // what is seen of colours that lie on each other
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.body.querySelectorAll("*")]
    .filter((element) => element.checkVisibility() && !element.disabled)
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const behind = [];
      for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
      const back = luminance(over(behind));
      const front = luminance(over([...behind, getComputedStyle(element).color]));
      return [(Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05), element.outerHTML.slice(0, 120)];
    });
}"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with Server(STORE) as server:
        yield server.url


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@needs_chromium
def test_text_has_contrast_and_fits_the_screen(browser: Browser, url: str, scheme: str, width: int) -> None:
    context = {"color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    with demo(browser, url, **context) as page:
        ask_for_a_key(page)
        classify(page, REVIEW)
        page.get_by_role("listbox").focus()
        page.keyboard.press("ArrowRight")
        shows_well(page, f"page-{scheme}-{width}", width)
        page.evaluate("document.querySelectorAll('.token').forEach((one) => one.style.setProperty('--strength', 1))")
        shows_well(page, None, width)
        page.context.set_offline(True)
        page.get_by_role("button", name="Classify").click()
        expect(page.get_by_role("alert")).to_be_visible()
        shows_well(page, f"page-{scheme}-{width}-failure", width)


def ask_for_a_key(page: Page) -> None:
    """The page asks for a key, as it does where a proxy wants one."""
    page.route(CLASSIFY, lambda route: route.fulfill(status=401, json={"detail": "no API key was sent"}), times=1)
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("textbox", name="API key")).to_be_focused()


def shows_well(page: Page, name: str | None, width: int) -> None:
    for part in ("#verdict", "#reading"):
        expect(page.locator(part)).to_have_css("opacity", "1")
    if name:
        SCREENSHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 10
    assert [(ratio, element) for ratio, element in ratios if ratio < 4.5] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@needs_chromium
def test_every_control_has_a_name(browser: Browser, url: str) -> None:
    with demo(browser, url) as page:
        ask_for_a_key(page)
        classify(page, REVIEW)
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    controls = {"button", "link", "textbox", "checkbox", "listbox", "option", "heading", "region", "form", "table"}
    found = [node for node in tree if not node["ignored"] and node["role"]["value"] in controls]
    assert {node["role"]["value"] for node in found} == controls
    assert [node for node in found if not node.get("name", {}).get("value", "").strip()] == []


@needs_chromium
def test_nothing_moves_where_that_is_not_wanted(browser: Browser, url: str) -> None:
    with demo(browser, url, reduced_motion="reduce") as page:
        page.evaluate("document.body.classList.add('busy')")
        expect(page.locator("#verdict")).to_have_css("transition-duration", "0s")
        assert page.evaluate("document.getAnimations().length") == 0


@needs_chromium
def test_page_and_card_work_under_a_prefix(browser: Browser, url: str) -> None:
    with demo(browser, url) as page:
        page.route("**/prefix/**", lambda route: route.continue_(url=route.request.url.replace("/prefix/", "/")))
        page.goto(f"{url}/prefix/")
        classify(page, REVIEW)
        expect(page.locator(".label")).to_contain_text("negative")
        page.get_by_role("link", name="Model card").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("imdb")
        assert page.url == f"{url}/prefix/models/imdb/card"
        assert page.evaluate("[...document.styleSheets].map((sheet) => sheet.cssRules.length > 0)") == [True, True]
        page.screenshot(path=SCREENSHOTS / "card.png")
        page.get_by_role("link", name="lstm-serve").first.click()
        page.wait_for_url(f"{url}/prefix/")


def test_a_stray_file_is_no_part_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("index.html", "page.js", ".page.js.swp", "page.js~", "README"):
        (tmp_path / name).write_text("text")
    (tmp_path / ".#page.js").symlink_to(tmp_path / "gone")  # as an editor leaves it
    monkeypatch.setattr("service.routes.page.FOLDER", tmp_path)
    assert router().routes


def get(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
    connection.close()
    return found


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/page.js", "text/javascript; charset=utf-8"),
        ("/page/page.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
        ("/models/imdb/card", "text/html; charset=utf-8"),
        ("/models/imdb/card/curves.png", "image/png"),
        ("/docs", "text/html; charset=utf-8"),
        ("/docs/assets/swagger-ui.css", "text/css; charset=utf-8"),
    ],
)
def test_what_people_see_may_load_from_here_only(url: str, path: str, media: str) -> None:
    status, headers, content = get(url, path)
    assert (status, headers["content-type"]) == (200, media)
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "base-uri")} == {"'self'"}
    assert policy["img-src"] == "'self' data:"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    own = media != "image/png" and "assets" not in path
    assert not own or b"://" not in content.replace(b"http://www.w3.org/2000/svg", b"")


@pytest.mark.parametrize("path", ["/", "/page/page.js"])
def test_a_file_that_is_known_is_not_sent_again(url: str, path: str) -> None:
    status, headers, content = get(url, path)
    assert (status, headers["cache-control"]) == (200, "no-cache")
    assert int(headers["content-length"]) == len(content) > 0
    for known in (headers["etag"], f'"other", W/{headers["etag"]}'):
        status, again, content = get(url, path, If_None_Match=known)
        assert (status, content, again["etag"]) == (304, b"", headers["etag"])
        assert again["content-security-policy"] == headers["content-security-policy"]
    assert get(url, path, If_None_Match='"other"')[0] == 200
    status, again, content = get(url, path, "HEAD")
    assert (status, content, again["content-length"]) == (200, b"", headers["content-length"])


@pytest.mark.parametrize(
    "path", ["/page/", "/page/none.js", "/page/index.html", "/page/..%2fapp.py", "/page/../app.py"]
)
def test_there_is_nothing_else(url: str, path: str) -> None:
    status, headers, _ = get(url, path)
    assert (status, headers["content-type"]) == (404, "application/problem+json")
