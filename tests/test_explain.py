"""What each token contributes: the same as leaving it out and asking again."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizer import Tokenizer
from service.errors import Overloaded
from service.explain import Budget, variants
from service.scheduler import Scheduler
from service.texts import Encoded
from tests.fake_engine import Fake, running, until
from tests.served import served
from tests.test_classify import text_app
from tests.tiny import TEXTS, write_tiny

pytestmark = pytest.mark.anyio

TOKENIZER = Tokenizer.train(TEXTS, 40, min_count=1)
TEXT = "  Not GOOD<br />film \U0001f600 , very bad !"
WORDS = ["Not", "GOOD", "film", "\U0001f600", ",", "very", "bad", "!"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small model of every output rule."""
    pytest.importorskip("service.engine._core", reason="the native engine is not built")
    folder = tmp_path_factory.mktemp("store")
    write_tiny(folder / "imdb" / "1", labels=("a", "b", "c"), pooling=("max", "mean"))
    write_tiny(folder / "sigmoid" / "1", labels=("a", "b", "c"), output="sigmoid")
    write_tiny(folder / "binary" / "1", output="binary")
    write_tiny(folder / "short" / "1", max_length=4)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def client(store: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with served(store, engine="native") as client:
        yield client


@pytest.fixture
async def fakes(fake: Fake) -> AsyncIterator[httpx.AsyncClient]:
    """Of models of up to 16 tokens, with a budget of 256."""
    async with running(text_app(fake)) as client:
        yield client


async def explained(client: httpx.AsyncClient, model: str, *texts: str, **fields: Any) -> list[Any]:
    body = {"texts": texts, "explain": True, **fields}
    reply = await client.post(f"/models/{model}/classify", json=body)
    assert reply.status_code == 200, reply.text
    return list(reply.json()["results"])


async def logits(client: httpx.AsyncClient, model: str, token_ids: list[int]) -> list[float]:
    reply = await client.post(f"/models/{model}/predict", json={"token_ids": [token_ids], "lengths": [len(token_ids)]})
    return list(reply.json()["logits"][0])


@pytest.mark.parametrize("model", ["imdb", "sigmoid", "binary"])
@pytest.mark.parametrize("text", [TEXT, "good bad", "bad bad bad bad", "zyx good wvu"])
async def test_contributions_are_those_of_asking_again(client: httpx.AsyncClient, model: str, text: str) -> None:
    """Bit for bit, on the native engine."""
    (ids,) = TOKENIZER.encode([text])
    (item,) = await explained(client, model, text)
    labels = list(item["scores"])
    whole = await logits(client, model, ids)
    assert item["logits"] == whole
    for place, contribution in enumerate(item["contributions"]):
        left = await logits(client, model, ids[:place] + ids[place + 1 :])
        if model == "binary":
            sign = 1 if item["label"] == labels[1] else -1
            expected = sign * whole[0] - sign * left[0]
        else:
            winner = labels.index(item["label"])
            expected = whole[winner] - left[winner]
        assert contribution["contribution"] == expected
    assert len(item["contributions"]) == len(ids)
    assert any(contribution["contribution"] for contribution in item["contributions"])


async def test_tokens_are_told_as_they_stand_in_the_text(client: httpx.AsyncClient) -> None:
    (item,) = await explained(client, "imdb", TEXT)
    assert [each["token"] for each in item["contributions"]] == WORDS
    assert [TEXT[each["start"] : each["end"]] for each in item["contributions"]] == WORDS
    assert [each["token"] for each in item["contributions"] if each["unknown"]] == ["\U0001f600"]


@pytest.mark.parametrize(("part", "words"), [("head", WORDS[:4]), ("tail", WORDS[-4:])])
async def test_the_part_of_a_long_text(client: httpx.AsyncClient, part: str, words: list[str]) -> None:
    (item,) = await explained(client, "short", TEXT, truncate=part)
    assert [each["token"] for each in item["contributions"]] == words
    assert [TEXT[each["start"] : each["end"]] for each in item["contributions"]] == words
    (alone,) = await explained(client, "short", " ".join(words))
    assert [each["contribution"] for each in item["contributions"]] == [
        each["contribution"] for each in alone["contributions"]
    ]


async def test_what_is_asked_for_alone_is_told(fakes: httpx.AsyncClient) -> None:
    reply = await fakes.post("/classify", json={"texts": ["good film"]})
    assert not {"contributions", "not_explained"} & reply.json()["results"][0].keys()
    (item,) = await explained(fakes, "tiny", "good film")
    assert "not_explained" not in item


async def test_a_text_of_one_token(fakes: httpx.AsyncClient) -> None:
    (item,) = await explained(fakes, "tiny", "good")
    assert item["contributions"] is None
    assert item["not_explained"] == "the text has one token: nothing is left without it"
    assert item["label"]


async def test_texts_share_the_budget_in_their_order(fakes: httpx.AsyncClient, fake: Fake) -> None:
    twelve, eleven, ten, four = ("good " * count for count in (12, 11, 10, 4))
    found = await explained(fakes, "tiny", "", twelve, eleven, "zyx", ten, four)  # 144, 121, 100, 16 of 256
    assert [item.get("contributions") is not None for item in found] == [False, True, False, False, True, False]
    assert found[2]["not_explained"] == (
        "with this text the request's explanations pass the limit of 256 (LSTMSERVE_EXPLAIN_TOKENS: the tokens of "
        "each text squared, summed): ask for it in another request"
    )
    assert "LSTMSERVE_EXPLAIN_TOKENS" in found[5]["not_explained"]
    assert len(fake.started) == 4 + 12 + 10


async def test_a_text_over_the_budget_says_so(fake: Fake) -> None:
    async with running(text_app(fake, explain_tokens=24)) as client:
        five, four = await explained(client, "tiny", "good " * 5, "good " * 4)
    assert five["not_explained"] == (
        "the text has 5 tokens; up to 4 are explained (LSTMSERVE_EXPLAIN_TOKENS is the square of that)"
    )
    assert five["label"]
    assert len(four["contributions"]) == 4


async def test_the_largest_text_alone_fits(fakes: httpx.AsyncClient) -> None:
    (item,) = await explained(fakes, "tiny", "good " * 16)
    assert len(item["contributions"]) == 16


async def test_explanations_are_not_counted_as_answers(fakes: httpx.AsyncClient, fake: Fake) -> None:
    await explained(fakes, "tiny", "good bad film")
    assert len(fake.started) == 4
    assert "lstmserve_sequences_total 1.0" in (await fakes.get("/metrics")).text.splitlines()


@given(st.lists(st.integers(1, 9), max_size=8))
def test_variants_leave_each_token_out_once(token_ids: list[int]) -> None:
    found = variants(token_ids)
    assert len(found) == len(token_ids)
    for place, variant in enumerate(found):
        restored = [*variant[:place], token_ids[place], *variant[place:]]
        assert restored == token_ids


@given(st.integers(0, 60), st.lists(st.integers(1, 8), max_size=8))
def test_the_budget_is_never_passed(most: int, lengths: list[int]) -> None:
    budget, taken = Budget(most), 0
    for length in lengths:
        refused = budget.refuses(Encoded([1] * length, 0, length, 0))
        fits = length > 1 and taken + length**2 <= most
        assert bool(refused) != fits
        taken += length**2 * fits


async def test_explanations_take_turns_with_a_share_of_the_lanes(fake: Fake) -> None:
    """And are never urgent: who asks for a label alone goes ahead of them."""
    app = text_app(fake, lanes=4)
    async with running(app) as client:
        fake.gate.clear()
        body = {"texts": ["good film good bad very bad"], "explain": True}
        asked = [
            asyncio.ensure_future(client.post("/classify", json=body, headers={"X-Request-Priority": "high"}))
            for _ in range(3)
        ]

        async def begun(count: int) -> bool:
            return len(fake.started) >= count

        await until(lambda: begun(3))
        most = 0
        while not all(request.done() for request in asked):
            fake.gate.set()
            await asyncio.sleep(0)
            most = max(most, len(fake.steps[-1]) if fake.steps[3:] else 0)
        for request in asked:
            (found,) = (await request).json()["results"]
            assert len(found["contributions"]) == 6
    assert most <= 2, "half of the lanes, whoever asks"


async def test_a_full_queue_costs_the_explanation_and_not_the_label(fake: Fake) -> None:
    async with running(text_app(fake, lanes=2)) as client:
        admit = Scheduler.admit

        def full(scheduler: Scheduler, sequences: Any, **fields: Any) -> None:
            if len(sequences[0].token_ids) < 3:
                raise Overloaded("full", 1)
            admit(scheduler, sequences, **fields)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Scheduler, "admit", full)
            (found,) = await explained(client, "tiny", "good film !")
        assert found["contributions"] is None
        assert found["not_explained"] == "too much is waiting: ask again, or without an explanation"
        assert found["label"]


async def test_a_deadline_holds_while_it_is_explained(fake: Fake) -> None:
    async with running(text_app(fake, lanes=2)) as client:
        text = {"texts": ["good film !"]}
        await client.post("/classify", json=text)
        taken = fake.start

        def stand(sequence: Any) -> None:
            if len(sequence.token_ids) < 3:
                fake.gate.clear()
            taken(sequence)

        fake.start = stand  # type: ignore[method-assign]
        reply = await client.post("/classify", json={**text, "explain": True}, headers={"X-Request-Timeout-Ms": "300"})
        assert reply.status_code == 504
        fake.gate.set()
        fake.start = taken  # type: ignore[method-assign]
        assert (await client.post("/classify", json={**text, "explain": True})).status_code == 200, "its turn is free"
