"""What the served versions read and say, over reloads."""

from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from models.scores import scores
from service.judgements import BULK, CONFIDENCE, KEPT_SECONDS, Judgements
from service.keys import Key, digest, line
from service.repository import Model, Repository
from service.texts import Encoded, TextError
from tests.exposition import Samples, families, model, reading_app, samples, scrape, value
from tests.fake_engine import Fake, running
from tests.served import served
from tests.tiny import write_tiny


class Watched:
    """A repository's judgements, by a clock that stands still."""

    def __init__(self, *models: Model) -> None:
        self.now = 0.0
        self.repository = Repository("tiny")
        self.judgements = Judgements(self.repository, lambda: self.now)
        for each in models:
            self.repository.put(each)

    def samples(self) -> Samples:
        return samples(self.judgements.collect())

    def versions(self, name: str = "lstmserve_labels_total") -> set[tuple[str, str]]:
        """Model and version of the series of that name."""
        return {(dict(labels)["model"], dict(labels)["version"]) for found, labels in self.samples() if found == name}


def test_labels_and_confidence_by_version() -> None:
    one, other = model(1), model(4, "other", labels=("a", "b", "c"))
    watched = Watched(one, other)
    watched.judgements.note(one, [[0.0, 3.0], [3.0, 0.0], [0.0, 0.1]])
    watched.judgements.note(other, [[0.0, 0.0, 9.0]])
    found = watched.samples()
    labels = {"model": "tiny", "version": "1"}
    assert value(found, "lstmserve_labels_total", label="negative", **labels) == 1
    assert value(found, "lstmserve_labels_total", label="positive", **labels) == 2
    assert value(found, "lstmserve_labels_total", label="c", model="other", version="4") == 1
    highest = [0.95257, 0.95257, 0.52498]  # softmax of 3 against 0, and of 0.1
    assert value(found, "lstmserve_confidence_sum", **labels) == pytest.approx(sum(highest), abs=1e-4)
    assert value(found, "lstmserve_confidence_count", **labels) == 3
    for bound in CONFIDENCE:
        below = sum(each <= bound for each in highest)
        assert value(found, "lstmserve_confidence_bucket", le=str(bound), **labels) == below


def test_a_bound_counts_what_is_equal_to_it() -> None:
    even = model(labels=("a", "b", "c", "d"))
    watched = Watched(even)
    watched.judgements.note(even, [[1.0] * 4])
    assert scores([[1.0] * 4], even.config).max() == 0.25  # type: ignore[arg-type]
    found = watched.samples()
    assert value(found, "lstmserve_confidence_bucket", le="0.25", model="tiny", version="1") == 1
    assert value(found, "lstmserve_confidence_bucket", le="0.1", model="tiny", version="1") == 0


@pytest.mark.parametrize("rows", [1, BULK - 1, BULK, BULK + 1, 3 * BULK + 7])
def test_counts_in_bulk_are_those_one_by_one(rows: int) -> None:
    watched, one = Watched(model(1)), model(1)
    logits = [[float(row % 5), 2.0] for row in range(rows)]
    for start in range(0, rows, 100):
        watched.judgements.note(one, logits[start : start + 100])
    found = watched.samples()
    expected = sum(row[1] >= row[0] and row != [2.0, 2.0] for row in logits)
    assert value(found, "lstmserve_labels_total", label="positive", model="tiny", version="1") == expected
    assert value(found, "lstmserve_confidence_count", model="tiny", version="1") == rows
    assert watched.samples() == found, "a second look changes nothing"


def test_logits_that_are_not_numbers_do_not_spoil_the_sum() -> None:
    one = model(1)
    watched = Watched(one)
    watched.judgements.note(one, [[float("nan"), 0.0], [9.0, 9.0]])
    assert value(watched.samples(), "lstmserve_confidence_sum", model="tiny", version="1") == 0.5


def test_texts() -> None:
    one = model(1)
    watched = Watched(one)
    read: list[Encoded | TextError] = [
        Encoded([1, 5], 0, 2, 1),
        Encoded([1, 5, 6], 0, 9, 2),
        TextError("empty", ""),
        TextError("too_long", ""),
    ]
    watched.judgements.read(one, read)
    watched.judgements.read(one, read[:1])
    found = watched.samples()
    labels = {"model": "tiny", "version": "1"}
    outcomes = {"read": 3, "empty": 1, "too_long": 1, "unknown_only": 0}
    for outcome, count in outcomes.items():
        assert value(found, "lstmserve_texts_total", outcome=outcome, **labels) == count
    assert value(found, "lstmserve_text_tokens_total", **labels) == 7
    assert value(found, "lstmserve_unknown_tokens_total", **labels) == 4
    assert value(found, "lstmserve_truncated_texts_total", **labels) == 1


def test_the_gauge_tells_what_serves_alone() -> None:
    watched = Watched(model(1))
    watched.samples()
    watched.repository.put(model(2, precision="bfloat16"))
    gauges = [labels for name, labels in watched.samples() if name == "lstmserve_model"]
    assert [dict(labels) for labels in gauges] == [{"model": "tiny", "version": "2", "precision": "bfloat16"}]
    watched.repository.remove("tiny")
    assert [name for name, _ in watched.samples() if name == "lstmserve_model"] == []


def test_a_new_version_is_there_before_its_first_answer() -> None:
    watched = Watched(model(1))
    watched.repository.put(model(2, labels=("x", "y")))
    assert value(watched.samples(), "lstmserve_labels_total", label="x", model="tiny", version="2") == 0


def test_the_last_counts_of_a_replaced_version_are_not_lost() -> None:
    old, new = model(1), model(2)
    watched = Watched(old)
    watched.samples()
    watched.judgements.note(old, [[0.0, 1.0]])
    watched.repository.put(new)
    watched.judgements.note(new, [[0.0, 1.0]])
    watched.judgements.note(old, [[0.0, 1.0]])  # it was in flight
    found = watched.samples()
    assert value(found, "lstmserve_labels_total", label="positive", model="tiny", version="1") == 2
    assert value(found, "lstmserve_labels_total", label="positive", model="tiny", version="2") == 1


def test_they_are_not_kept_for_ever() -> None:
    watched = Watched(model(1), model(1, "other"))
    assert watched.versions() == {("tiny", "1"), ("other", "1")}
    watched.repository.put(model(2))
    watched.repository.remove("other")
    watched.now = KEPT_SECONDS
    assert watched.versions() == {("tiny", "1"), ("tiny", "2"), ("other", "1")}
    watched.now += 1
    assert watched.versions() == {("tiny", "2")}


def scraped(watched: Watched) -> None:
    watched.samples()


def answered(watched: Watched) -> None:
    watched.judgements.note(watched.repository.get(), [[0.0, 1.0]])


@pytest.mark.parametrize("seen", [scraped, answered])
def test_reloads_do_not_grow_the_exposition(seen: Callable[[Watched], None]) -> None:
    watched = Watched(model(1))
    for version in range(1, 101):
        watched.repository.put(model(version))
        seen(watched)
        watched.now += 1
    assert watched.versions() == {("tiny", "99"), ("tiny", "100")}
    assert watched.versions("lstmserve_texts_total") == {("tiny", "99"), ("tiny", "100")}


def test_a_version_that_serves_again_goes_on_counting() -> None:
    first, second = model(1), model(2)
    watched = Watched()
    for version in (first, second, first):
        watched.repository.put(version)
        watched.judgements.note(version, [[0.0, 1.0]])
        watched.samples()
        watched.now += 1
    labels = {"label": "positive", "model": "tiny"}
    assert value(watched.samples(), "lstmserve_labels_total", version="1", **labels) == 2
    watched.repository.put(model(3))
    assert watched.versions() == {("tiny", "1"), ("tiny", "3")}, "the one before it is 1, not 2"


def test_another_model_under_the_same_number_counts_from_zero() -> None:
    watched = Watched(model(1, digest="a"))
    watched.judgements.note(watched.repository.get(), [[0.0, 1.0]])
    watched.repository.put(model(1, digest="b", labels=("x", "y", "z")))
    found = watched.samples()
    assert value(found, "lstmserve_labels_total", label="z", model="tiny", version="1") == 0
    assert (
        "lstmserve_labels_total",
        frozenset({("label", "positive"), ("model", "tiny"), ("version", "1")}),
    ) not in found


def test_labels_of_any_characters_are_told() -> None:
    odd = ('a"b', "c\\d\ne", "é", "{x=1}")
    watched = Watched(model(labels=odd))
    registry = CollectorRegistry()
    registry.register(watched.judgements)
    found = samples(families(generate_latest(registry).decode()))
    for label in odd:
        assert value(found, "lstmserve_labels_total", label=label, model="tiny", version="1") == 0


@pytest.mark.anyio
async def test_a_load_is_told_at_once(tmp_path: Path) -> None:
    store, key = tmp_path / "store", tmp_path / "key"
    key.write_text(line(Key("ops", urgent=False), digest(b"key")))
    write_tiny(store / "imdb" / "1")
    async with served(store, admin_keys_file=key) as client:
        await client.post("/classify", json={"texts": ["good film"]})
        before = await scrape(client)
        write_tiny(store / "imdb" / "2", seed=1)
        path, headers = "/v2/repository/models/imdb/load", {"Authorization": "Bearer key"}
        assert (await client.post(path, headers=headers)).status_code == 200
        after = await scrape(client)
    for name, labels in before:
        if ("version", "1") in labels and name != "lstmserve_model":
            assert after[name, labels] == before[name, labels], "the last counts"
            assert (name, labels - {("version", "1")} | {("version", "2")}) in after
    serving = [dict(labels)["version"] for name, labels in after if name == "lstmserve_model"]
    assert serving == ["2"]
    assert value(after, "lstmserve_model_loads_total", model="imdb", outcome="loaded") == 2
    assert value(after, "lstmserve_model_loads_total", model="imdb", outcome="failed") == 0
    assert value(after, "lstmserve_model_load_seconds_count") == 2


@pytest.mark.anyio
async def test_requests_are_noted(fake: Fake) -> None:
    async with running(reading_app(fake)) as client:
        texts = ["good film", "zebra good", "zebra", "", "good " * 20]
        assert (await client.post("/classify", json={"texts": texts})).status_code == 200
        assert (await client.post("/classify", json={"texts": texts[-1:], "truncate": "head"})).status_code == 200
        await client.post("/predict", json={"token_ids": [[1, 2]]})
        found = await scrape(client)
    labels = {"model": "tiny", "version": "1"}
    for outcome, count in {"read": 3, "unknown_only": 1, "empty": 1, "too_long": 1}.items():
        assert value(found, "lstmserve_texts_total", outcome=outcome, **labels) == count, outcome
    assert value(found, "lstmserve_text_tokens_total", **labels) == 2 + 2 + 16
    assert value(found, "lstmserve_unknown_tokens_total", **labels) == 1
    assert value(found, "lstmserve_truncated_texts_total", **labels) == 1
    assert value(found, "lstmserve_confidence_count", **labels) == 4
