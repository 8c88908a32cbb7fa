"""The demo page in a real browser, over real services: what it shows is what the service answered."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import CHROMIUM, CLASSIFY, classify, demo, figures
from tests.server import Server
from tests.tiny import write_tiny

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

REVIEW = "Not bad at all: the opening drags, the villain is a cliché.\n\nAnd yet so beautifully shot, a treat."
TOPICS = tuple(f"topic {number}" for number in range(12))


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


def test_the_page_can_be_used_by_the_keyboard_alone(page: Page) -> None:
    stops = []
    for _ in range(3):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert stops == ["card", "API", "text"]
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


def test_an_answer_says_when_the_text_has_been_edited_since(page: Page) -> None:
    note = page.get_by_text("it has been edited since")
    classify(page, "A moving film.")
    expect(note).to_be_hidden()
    page.get_by_role("textbox", name="Text").fill("A moving")
    expect(note).to_be_visible()
    page.get_by_role("textbox", name="Text").fill("A moving film.")
    expect(note).to_be_hidden()


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
    classify(choosing, text)
    alert = choosing.get_by_role("alert")
    expect(alert.locator("h2 + p")).to_have_text("The text has 14 tokens, at most 12 are read.")  # and no setting
    choosing.get_by_role("textbox", name="Text").fill("another")
    choosing.get_by_role("button", name=button).click()
    expect(choosing.locator("h2.label")).to_be_focused()
    expect(choosing.locator("#earlier")).to_be_visible()
    expect(choosing.locator(".facts")).to_contain_text(f"of 14: not the {left}")
    assert choosing.locator(".tokens").text_content() == text
    assert choosing.locator(".unread").inner_text().strip() == ("a treat" if left == "end" else "good film")
