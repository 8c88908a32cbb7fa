"""The demo page in a real browser, over real services: what it shows is what the service answered."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import CHROMIUM, CLASSIFY, STORE, chromium, classify, demo
from tests.server import Server
from tests.tiny import write_tiny

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

REVIEW = "Not bad at all: the opening drags, the villain is a cliché.\n\nAnd yet so beautifully shot, a treat."
TOPICS = tuple(f"topic {number}" for number in range(12))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def shipped() -> Iterator[str]:
    """A service of one model, which reads texts."""
    with Server(STORE) as server:
        yield server.url


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of several models of twelve tokens: many labels, labels judged each by itself, token ids only."""
    store = tmp_path_factory.mktemp("store")
    write_tiny(store / "topics" / "3", labels=TOPICS)
    write_tiny(store / "tags" / "1", labels=("calm", "loud", "odd"), output="sigmoid")
    write_tiny(store / "ids" / "1", with_tokenizer=False)
    with Server(store, "--model", "topics", "--max-tokens", "12", "--precision", "float32") as server:
        yield server.url


@pytest.fixture
def page(browser: Browser, shipped: str) -> Iterator[Page]:
    with demo(browser, shipped) as page:
        yield page


@pytest.fixture
def choosing(browser: Browser, several: str) -> Iterator[Page]:
    with demo(browser, several) as page:
        yield page


def tokens(page: Page) -> list[dict[str, Any]]:
    """The tokens as they are shaded: text, value, kind and strength of the shade."""
    found: list[dict[str, Any]] = page.locator(".token").evaluate_all(
        """(tokens) => tokens.map((token) => ({
            text: token.textContent, value: Number(token.dataset.contribution), name: token.ariaLabel,
            kind: token.classList[0], strength: Number(token.style.getPropertyValue("--strength"))}))"""
    )
    return found


def figures(page: Page, place: str) -> list[float]:
    return [
        float(value) for value in page.locator(f"{place} >> data").evaluate_all("(all) => all.map((one) => one.value)")
    ]


def test_label_scores_and_figures_are_the_service_s(page: Page) -> None:
    result = classify(page, REVIEW)
    label = result["label"]
    expect(page.get_by_role("heading", level=2, name=label)).to_be_visible()
    assert figures(page, "h2") == [result["scores"][label]]
    assert page.locator(".scores li > span:first-child").all_inner_texts() == list(result["scores"])
    assert figures(page, ".scores") == list(result["scores"].values())
    widths = page.locator(".bar").evaluate_all(
        "(bars) => bars.map((bar) => bar.firstChild.getBoundingClientRect().width / bar.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx(list(result["scores"].values()), abs=0.01)
    *counted, queue, compute, round_trip = figures(page, ".facts")
    assert counted == [result["kept_tokens"], result["unknown_tokens"]]
    assert result["timing"] == f"queue;dur={queue:.3f}, compute;dur={compute:.3f}"
    assert round_trip > queue + compute
    expect(page.get_by_role("status")).to_have_text(f"{label}, {share(result)}. {result['tokens']} tokens read.")


def share(result: dict[str, Any]) -> str:
    return f"{result['scores'][result['label']]:.1%}"


def test_shades_and_strongest_tokens_are_the_service_s(page: Page) -> None:
    result = classify(page, REVIEW)
    given = result["contributions"]
    values = [each["contribution"] for each in given]
    most = max(map(abs, values))
    shown = tokens(page)
    assert [token["text"] for token in shown] == [each["token"] for each in given]
    assert [token["value"] for token in shown] == values
    assert [token["strength"] for token in shown] == pytest.approx([abs(value) / most for value in values])
    assert [token["kind"] for token in shown] == ["against" if value < 0 else "for" for value in values]
    assert shown[0]["name"].startswith(f"{shown[0]['text']}: ")
    assert page.locator(".tokens").text_content() == REVIEW
    ranked = sorted(values)
    assert figures(page, "table >> nth=0") == [value for value in ranked[::-1] if value > 0][:6]
    assert figures(page, "table >> nth=1") == [value for value in ranked if value < 0][:6]
    expect(page.locator(".legend")).to_contain_text(f"+{most:.2f} for {result['label']}")


@pytest.mark.parametrize(
    "text",
    [
        "Good 🍿 film 👏🏽👏🏽, a\u0301 treat 𐀀ood!\n\n  bad 👨‍👩‍👧 drama",
        "<b>Good</b> film\n<script>alert(1)</script> <img src=x onerror=alert(1)> &amp; a treat",
        "طيب good film, שלום bad film",
    ],
    ids=["beyond 16 bits", "HTML", "right to left"],
)
def test_every_text_reads_as_it_was_typed(page: Page, text: str) -> None:
    given = classify(page, text)["contributions"]
    assert page.locator(".tokens").text_content() == text
    assert [token["text"] for token in tokens(page)] == [text[each["start"] : each["end"]] for each in given]
    assert page.locator("main :is(b, img, script)").count() == 0


def test_the_page_can_be_used_by_the_keyboard_alone(page: Page) -> None:
    stops = []
    for _ in range(4):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert stops == ["card", "API", "key-toggle", "text"]
    page.keyboard.type("A moving film, not dull.")
    with page.expect_response(CLASSIFY):
        page.keyboard.press("Control+Enter")
    box = page.get_by_role("listbox")
    expect(box).to_be_visible()
    for _ in range(7):  # four examples, the box to tick, the button
        page.keyboard.press("Tab")
    expect(box).to_be_focused()
    tip = page.locator(".tip")
    active = page.locator(".token.active")
    expect(active).to_have_text("A")
    for key, text in [
        ("ArrowRight", "moving"),
        ("End", "."),
        ("ArrowRight", "."),
        ("ArrowLeft", "dull"),
        ("Home", "A"),
    ]:
        page.keyboard.press(key)
        expect(active).to_have_text(text)
        expect(box).to_have_attribute("aria-activedescendant", active.get_attribute("id") or "")
        expect(active).to_have_attribute("aria-label", f"{text}: {tip.inner_text()}")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    expect(box).to_be_focused()


def test_a_token_under_the_pointer_tells_its_value(page: Page) -> None:
    classify(page, "A moving film, not dull.")
    dull = page.locator(".token", has_text="dull")
    dull.hover()
    tip = page.locator(".tip")
    expect(tip).to_have_text((dull.get_attribute("aria-label") or "").removeprefix("dull: "))
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_an_example_is_sent_at_once(page: Page) -> None:
    with page.expect_response(CLASSIFY) as response:
        page.get_by_role("button", name="a fond review").click()
    sent = json.loads(response.value.request.post_data or "")
    assert sent["texts"] == [page.get_by_role("textbox", name="Text").input_value()]
    expect(page.locator(".label")).to_contain_text(response.value.json()["results"][0]["label"])


def test_without_an_explanation_none_is_asked_for(page: Page) -> None:
    page.get_by_label("Show what each token contributes").uncheck()
    assert "contributions" not in classify(page, REVIEW)
    expect(page.get_by_role("region", name="Explanation")).to_be_hidden()


def test_a_text_beyond_the_bound_of_explanations_says_so(page: Page) -> None:
    result = classify(page, "good film " * 1000)
    assert result["contributions"] is None
    expect(page.locator(".note")).to_have_text(f"Not explained: {result['not_explained']}.")
    assert tokens(page) == []


def test_unknown_tokens_are_marked(page: Page) -> None:
    def answer(route: Route) -> None:
        reply = route.fetch()
        document = reply.json()
        document["results"][0]["contributions"][1]["unknown"] = True
        route.fulfill(response=reply, json=document)

    page.route(CLASSIFY, answer)
    classify(page, "A zzxxqq film.")
    assert page.locator(".token.unknown").all_inner_texts() == ["zzxxqq"]
    expect(page.locator(".token.unknown")).to_have_attribute(
        "aria-label", re.compile("zzxxqq: .*not in the vocabulary")
    )
    expect(page.locator(".legend")).to_contain_text("not in the vocabulary")


def test_a_second_request_cancels_the_first(page: Page) -> None:
    waiting: list[Route] = []
    page.evaluate(
        "() => { const ask = fetch; window.asked = []; "
        "window.fetch = (address, options) => (asked.push(options.signal), ask(address, options)); }"
    )
    page.route(CLASSIFY, lambda route: waiting.append(route), times=1)
    page.get_by_role("textbox", name="Text").fill("A dull film.")
    page.get_by_role("button", name="Classify").click()
    expect(page.get_by_role("button", name="Classifying…")).to_be_visible()
    result = classify(page, "A moving film, a treat.")
    assert len(waiting) == 1
    assert page.evaluate("asked.map((signal) => signal.aborted)") == [True, False]
    expect(page.locator(".label")).to_contain_text(result["label"])
    expect(page.get_by_role("alert")).to_have_count(0)
    expect(page.locator("#send-label")).to_have_text("Classify")


def test_one_model_needs_no_choice(page: Page) -> None:
    expect(page.get_by_label("Model", exact=True)).to_be_hidden()
    (model,) = page.evaluate("fetch('models').then((reply) => reply.json())")
    expect(page.locator("#about")).to_contain_text(f"imdb, version 1, {model['precision']}: negative, positive")


def test_a_model_is_chosen_among_those_that_read_texts(choosing: Page) -> None:
    model = choosing.get_by_label("Model", exact=True)
    assert sorted(model.locator("option").all_inner_texts()) == ["tags", "topics"]
    expect(model).to_have_value("topics")
    expect(choosing.locator("#about")).to_contain_text("topics, version 3, float32: 12 labels; reads up to 12 tokens")
    model.select_option("tags")
    expect(choosing.locator("#about")).to_contain_text("calm, loud, odd")
    result = classify(choosing, "good film")
    assert sum(result["scores"].values()) != pytest.approx(1)
    expect(choosing.locator(".by")).to_have_text("by tags, version 1; each score stands by itself")


def test_many_labels_are_sorted_by_score(choosing: Page) -> None:
    result = classify(choosing, "good film , very bad")
    scores = sorted(result["scores"].values(), reverse=True)
    assert figures(choosing, ".scores") == scores
    assert choosing.locator(".winner > span:first-child").all_inner_texts() == [result["label"]]
    expect(choosing.locator(".scores li >> nth=8")).to_be_hidden()
    choosing.get_by_text("4 more labels").click()
    expect(choosing.locator(".scores li >> nth=11")).to_be_visible()


@pytest.mark.parametrize(("button", "left"), [("Read its beginning", "end"), ("Read its end", "beginning")])
def test_of_a_long_text_a_part_is_read(choosing: Page, button: str, left: str) -> None:
    text = "good film , very good . bad film , very bad ! a treat"
    error = classify(choosing, text)["error"]
    expect(choosing.get_by_role("alert")).to_contain_text(error["detail"].removeprefix("the text "))
    choosing.get_by_role("textbox", name="Text").fill("another")
    choosing.get_by_role("button", name=button).click()
    expect(choosing.locator(".facts")).to_contain_text(f"of 14: not the {left}")
    assert choosing.locator(".tokens").text_content() == text
    assert choosing.locator(".unread").inner_text().strip() == ("a treat" if left == "end" else "good film")
