"""The torch engine behind the seam."""

import select
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import SequenceClassifier
from service.engine import Work, packed
from service.engine.packed import PackedEngine
from service.errors import BackendError, DeadlineExceeded, EngineFailed
from service.sequence import Outcome, Sequence
from tests.tiny import tiny_artifact, tiny_config, tiny_network

Make = Callable[..., PackedEngine]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[PackedEngine] = []

    def one(device: str = "cpu", threads: int = 1, lanes: int = 32, budget: int = 1000) -> PackedEngine:
        made.append(PackedEngine(device, threads, lanes, budget))
        return made[-1]

    yield one
    assert all(engine.close() for engine in made)


class Gated(SequenceClassifier):
    """Keeps the batches it was given; behind a gate, which is closed at first. Fails on token id 39."""

    def __init__(self) -> None:
        super().__init__(tiny_config())
        self.batches: list[list[list[int]]] = []
        self.running = threading.Semaphore(0)
        self.gate = threading.Event()

    def predict(self, sequences: Many[Many[int]]) -> npt.NDArray[np.float32]:
        self.batches.append([list(sequence) for sequence in sequences])
        self.running.release()
        assert self.gate.wait(10)
        if any(39 in sequence for sequence in sequences):
            raise ArithmeticError("poisoned")
        return np.array([[len(sequence), np.nan if 38 in sequence else 0] for sequence in sequences], np.float32)


@pytest.fixture
def gated() -> Iterator[Gated]:
    network = Gated()
    yield network
    network.gate.set()


def start(engine: PackedEngine, network: SequenceClassifier, *rows: Many[int], seconds: float = 60) -> list[Sequence]:
    now = time.monotonic()
    sequences = [Sequence(list(row), network, now + seconds, now) for row in rows]
    for sequence in sequences:
        engine.start(sequence)
    return sequences


def collect(engine: PackedEngine, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        assert select.select([engine.fileno()], [], [], 10)[0], "it does not ring"
        outcomes += engine.collect()
    return outcomes


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it never holds"
        time.sleep(0.001)


tokens = st.lists(st.integers(1, 39), min_size=1, max_size=40)


@given(st.lists(tokens, min_size=1, max_size=12), st.integers(1, 60), st.integers(1, 3), st.data())
@settings(max_examples=60, deadline=None)
def test_started_sequences_end_with_the_logits_of_running_alone(
    rows: list[list[int]], budget: int, threads: int, data: st.DataObject
) -> None:
    networks = [tiny_network(seed) for seed in (0, 1)]
    engine = PackedEngine("cpu", threads, 6, budget)
    try:
        began = time.monotonic()
        started = [start(engine, data.draw(st.sampled_from(networks)), row)[0] for row in rows]
        cancelled = set(data.draw(st.lists(st.sampled_from(started), unique=True)))
        for each in cancelled:
            engine.cancel(each)
        outcomes = collect(engine, len(started) - len(cancelled))
        assert {outcome.sequence for outcome in outcomes} == set(started) - cancelled
        assert len(outcomes) == len(started) - len(cancelled)
        for each, result in outcomes:
            assert isinstance(each.weights, SequenceClassifier)
            assert not isinstance(result, Exception)
            np.testing.assert_allclose(result, each.weights.predict([each.token_ids])[0], atol=1e-5)
            assert began <= each.started <= time.monotonic()

        def all_places_are_free() -> bool:
            assert engine.collect() == []
            return engine.room == 12 * threads

        until(all_places_are_free)
    finally:
        assert engine.close()


def test_logits_are_plain_floats(make: Make) -> None:
    engine = make()
    start(engine, tiny_network(), [1, 2, 3])
    [(_, result)] = collect(engine, 1)
    assert isinstance(result, list)
    assert [type(logit) for logit in result] == [float, float]
    assert [float(np.float32(logit)) for logit in result] == result


def test_it_rings_only_while_there_is_something_to_collect(make: Make) -> None:
    engine = make()
    assert not select.select([engine], [], [], 0)[0]
    start(engine, tiny_network(), [1, 2, 3])
    collect(engine, 1)
    assert not select.select([engine], [], [], 0.05)[0]


def test_a_batch_is_what_the_budget_covers_and_at_least_one(make: Make, gated: Gated) -> None:
    engine = make(budget=25)
    start(engine, gated, [1])
    assert gated.running.acquire(timeout=10)
    start(engine, gated, *([3] * length for length in (10, 10, 10, 50, 1)))
    gated.gate.set()
    collect(engine, 6)
    assert [[len(row) for row in batch] for batch in gated.batches] == [[1], [10, 10], [10], [50], [1]]


def test_the_longest_sequence_of_a_batch_is_its_steps_and_its_tokens_are_its_lane_steps(
    make: Make, gated: Gated
) -> None:
    engine = make(budget=25)
    assert engine.work == Work(0, 0)
    start(engine, gated, [1])
    assert gated.running.acquire(timeout=10)
    late, left = start(engine, gated, [2], seconds=0)[0], start(engine, gated, [2])[0]
    engine.cancel(left)
    start(engine, gated, *([3] * length for length in (10, 5, 8, 50)))
    assert engine.work == Work(0, 0)
    gated.gate.set()
    assert late in dict(collect(engine, 6))
    assert [[len(row) for row in batch] for batch in gated.batches] == [[1], [10, 5, 8], [50]]
    assert engine.work == Work(steps=1 + 10 + 50, lane_steps=1 + 23 + 50)


def test_a_batch_is_of_one_version(make: Make, gated: Gated) -> None:
    engine, other = make(), Gated()
    other.gate.set()
    start(engine, gated, [1])
    assert gated.running.acquire(timeout=10)
    start(engine, gated, [2], [3])
    start(engine, other, [4])
    start(engine, gated, [5])
    gated.gate.set()
    collect(engine, 5)
    assert gated.batches == [[[1]], [[2], [3]], [[5]]]
    assert other.batches == [[[4]]]


def test_a_thread_leaves_the_others_their_share(make: Make, gated: Gated) -> None:
    engine = make(threads=3)
    for number in range(3):
        start(engine, gated, [number])
        assert gated.running.acquire(timeout=10)
    start(engine, gated, *([3, number] for number in range(10)))
    gated.gate.set()
    collect(engine, 13)
    assert len(gated.batches[3]) <= 4
    assert gated.batches[3][0] == [3, 0], "the oldest first"


def test_there_is_room_for_two_batches_of_lanes_a_thread(make: Make, gated: Gated) -> None:
    engine = make(threads=2, lanes=3)
    assert engine.room == 12
    first, *_ = start(engine, gated, *([number] for number in range(5)))
    assert engine.room == 7
    engine.cancel(first)
    assert engine.room == 7, "its place is not free yet"
    gated.gate.set()
    collect(engine, 4)
    assert engine.room == 12


def test_a_sequence_that_cannot_be_computed_fails_alone(make: Make, gated: Gated) -> None:
    engine = make()
    start(engine, gated, [1])
    assert gated.running.acquire(timeout=10)
    start(engine, gated, [3, 4], [39], [5, 6, 7], [38])
    gated.gate.set()
    results = {tuple(sequence.token_ids): result for sequence, result in collect(engine, 5)}
    assert isinstance(results[39,], ArithmeticError)
    assert isinstance(results[38,], EngineFailed)
    assert "not finite" in str(results[38,])
    assert results[3, 4] == [2.0, 0.0]
    assert results[5, 6, 7] == [3.0, 0.0]
    assert engine.failures == 0


def test_a_token_id_beyond_the_vocabulary_fails_alone(make: Make) -> None:
    engine, network = make(), tiny_network()
    start(engine, network, [3, 4], [99], [5])
    results = {tuple(sequence.token_ids): result for sequence, result in collect(engine, 3)}
    assert isinstance(results[99,], IndexError)
    assert isinstance(results[3, 4], list)
    assert isinstance(results[5,], list)


def test_what_is_cancelled_or_overdue_before_its_batch_is_not_computed(make: Make, gated: Gated) -> None:
    engine = make()
    running = start(engine, gated, [1])[0]
    assert gated.running.acquire(timeout=10)
    late = start(engine, gated, [2], seconds=0)[0]
    left, stays = start(engine, gated, [3], [4])
    engine.cancel(left)
    engine.cancel(running)
    gated.gate.set()
    outcomes = dict(collect(engine, 2))
    assert outcomes.keys() == {late, stays}
    assert isinstance(outcomes[late], DeadlineExceeded)
    assert gated.batches == [[[1]], [[4]]]


def test_one_that_is_cancelled_after_its_end_does_not_come_back(make: Make, gated: Gated) -> None:
    engine = make()
    gated.gate.set()
    one = start(engine, gated, [1])[0]
    assert select.select([engine.fileno()], [], [], 10)[0]
    engine.cancel(one)
    assert engine.collect() == []
    assert engine.room == 64


def test_close_waits_for_the_batch_and_drops_the_rest(make: Make, gated: Gated) -> None:
    engine = make(threads=2)
    for _ in range(2):
        start(engine, gated, [1])
        assert gated.running.acquire(timeout=10)
    start(engine, gated, [2])
    threading.Timer(0.05, gated.gate.set).start()
    assert engine.close()
    assert gated.batches == [[[1]], [[1]]]
    assert not [thread for thread in threading.enumerate() if thread in engine._threads]


def test_threads_that_are_not_to_be_had_end_those_that_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[threading.Thread] = []
    begin = threading.Thread.start

    def refuse_the_second(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        begin(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_second)
    with pytest.raises(BackendError, match=r"7 engine threads .* \(can't .*\): set fewer \(LSTMSERVE_THREADS\)"):
        PackedEngine("cpu", 7, 32, 1000)
    assert [thread.is_alive() for thread in started] == [False]


def test_models_are_loaded_beside_sequences_that_run(make: Make) -> None:
    engine, artifact = make(threads=2), tiny_artifact()
    rows = [[number] * number for number in range(1, 30)]

    def run(network: SequenceClassifier) -> list[list[float]]:
        sequences = start(engine, network, *rows)
        results = dict(collect(engine, len(rows)))
        return [result for sequence in sequences if isinstance(result := results[sequence], list)]

    newest = engine.load(artifact, "float32")
    expected = newest.predict(rows)
    with ThreadPoolExecutor(1) as loader:
        for _ in range(20):
            loading = loader.submit(engine.load, artifact, "float32", newest)
            while True:
                np.testing.assert_allclose(run(newest), expected, atol=1e-5)
                if loading.done():
                    break
            newest = loading.result()
            assert loader.submit(torch.get_num_threads).result() == 1, "it makes no threads of torch's own"


def test_a_batch_that_does_not_end_is_not_waited_for(make: Make, gated: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make()
    start(engine, gated, [1])
    assert gated.running.acquire(timeout=10)
    monkeypatch.setattr(packed, "BATCH_SECONDS", 0.05)
    assert not engine.close()
    monkeypatch.undo()
    gated.gate.set()  # when it ends after all, nothing goes wrong


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_a_gpu_the_logits_are_those_of_the_cpu(make: Make) -> None:
    artifact = tiny_artifact(num_layers=2, pooling=("last", "max", "mean", "last_output"))
    engine = make(device="cuda")
    network = engine.load(artifact, "float32")
    sequences = start(engine, network, *(case.token_ids for case in artifact.golden))
    results = dict(collect(engine, len(sequences)))
    for sequence, case in zip(sequences, artifact.golden, strict=True):
        result = results[sequence]
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(result, case.logits, atol=1e-4)
