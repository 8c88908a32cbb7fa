"""The native engine behind the seam."""

import gc
import select
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from models.artifact import Artifact, GoldenCase
from service.engine import Work, _core
from service.engine.native import NativeEngine, sizes_of
from service.errors import BackendError, DeadlineExceeded, EngineFailed
from service.sequence import Outcome, Sequence
from tests.native_core import random_weights, wide_config
from tests.reference import reference_logits

Make = Callable[..., NativeEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[NativeEngine] = []

    def one(**options: Any) -> NativeEngine:
        made.append(NativeEngine(**{"threads": 1, "lanes": 4, "precision": "float32", "table_mb": 192, **options}))
        return made[-1]

    yield one
    assert all(engine.close() for engine in made)


def artifact(**fields: Any) -> Artifact:
    config = wide_config(**fields)
    return Artifact(config, random_weights(config), None, [GoldenCase(token_ids=[1], logits=[0.0, 0.0])])


def start(engine: NativeEngine, model: _core.Model, *rows: Many[int], seconds: float = 60) -> list[Sequence]:
    now = time.monotonic()
    sequences = [Sequence(list(row), model, now + seconds, now) for row in rows]
    for sequence in sequences:
        engine.start(sequence)
    return sequences


def collect(engine: NativeEngine, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        assert select.select([engine], [], [], 10)[0], "it does not ring"
        outcomes += engine.collect()
    return outcomes


def test_started_sequences_come_back_once_with_the_logits_of_the_reference(make: Make) -> None:
    engine, version = make(threads=2), artifact()
    model = engine.load(version, "float32")
    before = time.monotonic()
    sequences = start(engine, model, *([n % 50] * n for n in range(1, 17)))
    assert engine.room == 0
    outcomes = collect(engine, 16)
    assert {outcome.sequence for outcome in outcomes} == set(sequences)
    assert engine.room == 16
    for sequence, result in outcomes:
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(
            result, reference_logits(version.config, version.weights, sequence.token_ids), atol=1e-5
        )
        assert before < sequence.started < time.monotonic()


def test_a_cancelled_sequence_never_comes_back_but_its_room_does(make: Make) -> None:
    engine = make()
    model = engine.load(artifact(), "float32")
    gone, stays = start(engine, model, [3] * 500_000, [4] * 100)
    engine.cancel(gone)
    assert engine.room == 6
    outcomes = collect(engine, 1)
    end = time.monotonic() + 10
    while engine.room < 8:  # its lane is free once a step has met it, be it after the other one's end
        assert time.monotonic() < end
        outcomes += engine.collect()
    assert [outcome.sequence for outcome in outcomes] == [stays]
    assert engine.room == 8


def test_a_deadline_that_passes_is_the_sequences_ending(make: Make) -> None:
    engine = make()
    [late] = start(engine, engine.load(artifact(), "float32"), [3] * 500_000, seconds=0.01)
    [(sequence, result)] = collect(engine, 1)
    assert sequence is late
    assert isinstance(result, DeadlineExceeded)


def test_logits_that_are_not_finite_are_an_error_of_their_own_sequence(make: Make) -> None:
    engine, version = make(), artifact(cell="rnn_relu", hidden_size=4)
    weights = {name: array * np.float32(1e30) for name, array in version.weights.items()}
    broken, whole = (engine.load(each, "float32") for each in (version._replace(weights=weights), version))
    for model in (broken, whole):
        start(engine, model, [3, 4])
    results = {outcome.sequence.weights: outcome.result for outcome in collect(engine, 2)}
    assert isinstance(results[broken], EngineFailed)
    assert "not finite" in str(results[broken])
    assert isinstance(results[whole], list)


def test_a_vocabulary_of_half_a_million(make: Make) -> None:
    """The table has its first ids; the others are computed."""
    engine, version = make(table_mb=8), artifact(vocab_size=500_000, embedding_dim=3, hidden_size=5)
    rows = [[0, 1, 2], [499_999, 0, 250_000], [8191, 8192, 16_383, 16_384, 32_767, 32_768]]
    start(engine, engine.load(version, "float32"), *rows)
    for sequence, result in collect(engine, 3):
        assert isinstance(result, list)
        expected = reference_logits(version.config, version.weights, sequence.token_ids)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_a_sequence_that_cannot_start_is_not_held(make: Make) -> None:
    engine = make()
    model = engine.load(artifact(), "float32")
    with pytest.raises(ValueError, match="token id 50 is not from 0 to 49"):
        start(engine, model, [50])
    assert engine.room == 8


def test_the_fastest_path_of_each_precision_is_taken(make: Make) -> None:
    fastest: dict[str, str] = {}
    for path, precision in _core.paths():
        fastest.setdefault(precision, path)
    preferred = [kind for kind in ("bfloat16", "float32") if kind in fastest]
    assert list(make(precision="auto").precisions.items()) == [(kind, fastest[kind]) for kind in preferred]
    assert make(precision="float32").precisions == {"float32": fastest["float32"]}


def test_a_precision_that_the_processor_lacks_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "paths", lambda: [("avx2", "float32"), ("portable", "float32")])
    assert make(precision="auto").precisions == {"float32": "avx2"}
    with pytest.raises(
        BackendError,
        match="LSTMSERVE_PRECISION=bfloat16: this CPU has no bfloat16 products; set LSTMSERVE_PRECISION=float32 or",
    ):
        make(precision="bfloat16")


def test_threads_that_are_not_to_be_had_are_an_error_with_a_remedy(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(threads: int, lanes: int, bell: int) -> None:
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(_core, "Engine", refuse)
    with pytest.raises(BackendError, match=r"7 engine threads .* \(Resource .*\): set fewer \(LSTMSERVE_THREADS\)"):
        make(threads=7)


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of the table of each model that is made."""
    tables: list[int] = []

    class Spy(_core.Model):
        def __init__(self, path: str, sizes: Any, weights: Any, table_rows: int, threads: int) -> None:
            super().__init__(path, sizes, weights, table_rows, threads)
            tables.append(table_rows)

    monkeypatch.setattr(_core, "Model", Spy)
    return tables


def rows_that_fit(version: Artifact, table_mb: int) -> int:
    path = next(path for path, precision in _core.paths() if precision == "float32")
    rows = (table_mb << 20) // _core.row_bytes(path, sizes_of(version.config))
    assert rows < version.config.vocab_size, "the bound is felt"
    return rows


def test_the_tables_of_all_models_are_bounded_together(make: Make, tables: list[int]) -> None:
    engine, version = make(table_mb=1), artifact(vocab_size=500)
    models = [engine.load(version, "float32") for _ in range(3)]
    fit = rows_that_fit(version, 1)
    assert tables == [fit, 0, 0]
    start(engine, models[1], [499, 0])
    start(engine, models[0], [499, 0])
    first, second = (outcome.result for outcome in collect(engine, 2))
    assert isinstance(first, list)
    assert isinstance(second, list)
    np.testing.assert_allclose(first, second, atol=1e-6)
    models.pop(0)
    gc.collect()
    engine.load(version, "float32")
    assert tables[-1] == fit, "a model that has gone gives its share back"


def test_a_reload_has_the_table_of_what_it_replaces(make: Make, tables: list[int]) -> None:
    engine, version = make(table_mb=1), artifact(vocab_size=500)
    fit = rows_that_fit(version, 1)
    model = engine.load(version, "float32")
    for _ in range(200):
        model = engine.load(version, "float32", model)
    assert tables == [fit] * 201


def test_what_was_replaced_counts_only_while_nothing_has_its_place(make: Make, tables: list[int]) -> None:
    engine, version = make(table_mb=1), artifact(vocab_size=500)
    fit = rows_that_fit(version, 1)
    first = engine.load(version, "float32")
    second = engine.load(version, "float32", first)
    third = engine.load(version, "float32", second)
    assert tables == [fit, fit, fit], "the first two may still have sequences that run"
    del third
    engine.load(version, "float32")
    assert tables[3] == 0, "the second has its place again"
    del second
    engine.load(version, "float32")
    assert tables[4] == 0, "and the first after it"
    del first
    engine.load(version, "float32")
    assert tables[5] == fit


def test_models_are_loaded_and_let_go_of_beside_sequences_that_run(make: Make) -> None:
    engine, version = make(threads=2), artifact(vocab_size=2000, num_layers=2)
    steady = engine.load(version, "float32")
    rows = [[number, 1999 - number, 3] * number for number in range(1, 6)]

    def run(model: _core.Model) -> list[list[float] | Exception]:
        sequences = start(engine, model, *rows, [4] * 100_000)
        engine.cancel(sequences.pop())
        results = dict(collect(engine, len(rows)))
        return [results[sequence] for sequence in sequences]

    right = run(steady)
    newest = steady
    with ThreadPoolExecutor(1) as loader:
        for _ in range(30):
            loading = loader.submit(engine.load, version, "float32", newest)
            while True:
                assert run(steady) == run(newest) == right
                if loading.done():
                    break
            newest = loading.result()
    assert run(newest) == right


def test_work_is_counted_and_stays_known(make: Make) -> None:
    engine = make()
    assert engine.work == Work(steps=0, lane_steps=0)
    start(engine, engine.load(artifact(bidirectional=False), "float32"), [3] * 9)
    collect(engine, 1)
    assert engine.work == Work(steps=9, lane_steps=9)
    assert engine.close()
    assert engine.work == Work(steps=9, lane_steps=9)
