"""The text as it was read, in a real browser: each token's shade, its value, the strongest in figures."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser import CHROMIUM, CLASSIFY, classify, demo, figures

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian: apt-get install chromium)")

REVIEW = "Not bad at all: the opening drags, the villain is a cliché.\n\nAnd yet so beautifully shot, a treat."


@pytest.fixture
def page(browser: Browser, shipped: str) -> Iterator[Page]:
    with demo(browser, shipped) as page:
        yield page


def tokens(page: Page) -> list[dict[str, Any]]:
    """The tokens as they are shaded: text, value, kind and strength of the shade."""
    found: list[dict[str, Any]] = page.locator(".token").evaluate_all(
        """(tokens) => tokens.map((token) => ({
            text: token.textContent, value: Number(token.dataset.contribution), name: token.ariaLabel,
            kind: token.classList[0], strength: Number(token.style.getPropertyValue("--strength"))}))"""
    )
    return found


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
    sums: dict[str, float] = {}  # a token that comes again has one row
    for each in given:
        sums[each["token"]] = sums.get(each["token"], 0) + each["contribution"]
    ranked = sorted(sums.values())
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


def test_a_token_under_the_pointer_tells_its_value(page: Page) -> None:
    classify(page, "A moving film, not dull.")
    dull = page.locator(".token", has_text="dull")
    dull.hover()
    tip = page.locator(".tip")
    expect(tip).to_have_text((dull.get_attribute("aria-label") or "").removeprefix("dull: "))
    page.mouse.move(5, 5)
    expect(tip).to_be_hidden()


def test_a_tapped_token_tells_its_value_until_another_place_is_tapped(browser: Browser, shipped: str) -> None:
    with demo(browser, shipped, has_touch=True, viewport={"width": 390, "height": 844}) as page:
        classify(page, "A moving film, not dull.")
        tip = page.locator(".tip")
        for text in ("dull", "moving"):
            token = page.locator(".token", has_text=text)
            token.tap()
            expect(tip).to_have_text((token.get_attribute("aria-label") or "").removeprefix(f"{text}: "))
        expect(tip).to_be_visible()
        page.locator("#about").tap()
        expect(tip).to_be_hidden()


def test_the_arrow_keys_go_where_the_text_goes(page: Page) -> None:
    classify(page, "שלום good film bad")
    page.get_by_role("listbox").focus()
    page.keyboard.press("Home")
    for key, text in [("ArrowLeft", "good"), ("ArrowLeft", "film"), ("ArrowRight", "good"), ("ArrowDown", "film")]:
        page.keyboard.press(key)
        expect(page.locator(".token.active")).to_have_text(text)


def test_a_token_that_comes_again_has_one_row_with_the_sum(page: Page) -> None:
    given = classify(page, "good good good " + "x" * 600)["contributions"]
    good = [each["contribution"] for each in given if each["token"] == "good"]
    row = page.locator("tr", has_text="good")
    expect(row).to_have_text(re.compile("^good sum of 3"))
    assert figures(page, "tr:has-text('good')") == [pytest.approx(sum(good))]
    assert max(page.locator("tr").evaluate_all("(rows) => rows.map((row) => row.offsetHeight)")) < 60


def test_a_text_beyond_the_bound_of_explanations_says_so(page: Page) -> None:
    result = classify(page, "good film " * 1000)
    assert result["contributions"] is None
    most = re.search("up to ([0-9]+) are", result["not_explained"])
    assert most is not None
    said = f"Not explained: the text has 2,000 tokens; up to {int(most[1]):,} are explained."
    expect(page.locator(".note")).to_have_text(said)  # and not which setting raises it
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
