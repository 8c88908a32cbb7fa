"""Faults in the way of sequences on the torch engine: one ending each, and nobody else hears of them."""

import logging
import random
import select
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many

import numpy as np
import numpy.typing as npt
import pytest

from models.network import SequenceClassifier
from service.engine import packed
from service.engine.packed import PackedEngine
from service.errors import EngineFailed, EngineLost
from service.sequence import Outcome, Sequence
from tests.faulty_core import until
from tests.tiny import tiny_config, tiny_network

RAISES, NOT_FINITE, ESCAPES, HANGS = 39, 38, 37, 36
"""Token ids that make the network raise, give no numbers, raise what no guard against errors holds, or hang."""

FAULTS = 300
"""That are met in each storm."""

Make = Callable[..., PackedEngine]


class Escape(BaseException):
    """What is not an Exception."""


class Faulty(SequenceClassifier):
    """Fails by token ids; it is otherwise as the seed makes it."""

    def __init__(self, seed: int) -> None:
        super().__init__(tiny_config())
        self.load_state_dict(tiny_network(seed).state_dict())
        self.eval().requires_grad_(False)
        self.hanging, self.released = threading.Event(), threading.Event()

    def predict(self, sequences: Many[Many[int]]) -> npt.NDArray[np.float32]:
        held = {token for sequence in sequences for token in sequence}
        if HANGS in held:
            self.hanging.set()
            assert self.released.wait(60)
        if ESCAPES in held:
            raise Escape
        if RAISES in held:
            raise ArithmeticError("poisoned")
        logits = super().predict(sequences)
        logits[[NOT_FINITE in sequence for sequence in sequences]] = np.nan
        return logits


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[PackedEngine] = []

    def one(threads: int, lanes: int = 8, budget: int = 200) -> PackedEngine:
        made.append(PackedEngine("cpu", threads, lanes, budget))
        return made[-1]

    yield one
    assert all(engine.close() for engine in made)


def start(engine: PackedEngine, network: SequenceClassifier, tokens: list[int]) -> Sequence:
    now = time.monotonic()
    sequence = Sequence(tokens, network, now + 600, now)
    engine.start(sequence)
    return sequence


def collect(engine: PackedEngine, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        assert select.select([engine], [], [], 60)[0], "it does not ring"
        outcomes += engine.collect()
    return outcomes


class Mishaps:
    """Makes an engine's own methods raise now and then, before or after what they do."""

    def __init__(self, engine: PackedEngine, draw: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.share = 0.1
        take, ring = engine._take, engine._bell.ring

        def happens() -> None:
            if draw.random() < self.share / 2:
                self.count += 1
                raise draw.choice(
                    [MemoryError(), OSError("injected"), Escape(), SystemExit(3), RuntimeError("injected")]
                )

        def faulty_take(hand: packed._Hand) -> bool:
            happens()
            taken = take(hand)
            happens()
            return taken

        def faulty_ring() -> None:
            happens()
            ring()
            happens()

        monkeypatch.setattr(engine, "_take", faulty_take)
        monkeypatch.setattr(engine._bell, "ring", faulty_ring)


@pytest.mark.parametrize(("threads", "seed"), [(1, 0), (2, 1), (3, 2), (4, 3)])
def test_a_thousand_faults(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: int, seed: int
) -> None:
    """More than a thousand, in four storms."""
    monkeypatch.setattr(packed, "PAUSE_SECONDS", 0.001)
    caplog.set_level(logging.CRITICAL)
    engine, draw = make(threads), random.Random(seed)
    places = engine.room
    mishaps = Mishaps(engine, draw, monkeypatch)
    networks = [Faulty(0), Faulty(1)]
    pool = [[draw.randrange(1, 30) for _ in range(draw.randint(1, 40))] for _ in range(30)]
    right = [network.predict(pool) for network in networks]
    running: dict[Sequence, tuple[int, int]] = {}
    met: Counter[int] = Counter()
    lost = 0

    def begin() -> None:
        number, token = draw.randrange(len(pool)), 0
        if draw.random() < 0.2:
            token = draw.choice([RAISES, NOT_FINITE, ESCAPES])
        sequence = start(engine, draw.choice(networks), [*pool[number], token] if token else pool[number])
        running[sequence] = number, token
        if draw.random() < 0.05:
            cancelled = draw.choice(list(running))
            del running[cancelled]
            engine.cancel(cancelled)

    def settle() -> None:
        nonlocal lost
        for sequence, result in engine.collect():
            number, token = running.pop(sequence)  # its one ending
            if isinstance(result, EngineLost):
                lost += not token
                met[ESCAPES] += token == ESCAPES
            elif token:
                met[token] += 1
                assert isinstance(result, ArithmeticError if token == RAISES else EngineFailed)
            else:
                assert isinstance(result, list)
                assert isinstance(sequence.weights, Faulty)
                np.testing.assert_allclose(result, right[networks.index(sequence.weights)][number], atol=1e-5)

    while met.total() + mishaps.count < FAULTS or len(met) < 3 or not lost:
        while engine.room and draw.random() < 0.9:
            begin()
        select.select([engine], [], [], 0.01)
        settle()
    mishaps.share = 0
    while engine.room < places:
        assert select.select([engine], [], [], 60)[0], "it does not ring"
        settle()
    assert not running
    assert mishaps.count > FAULTS / 10
    until(lambda: [pulse.busy for pulse in engine.pulses] == [False] * threads)
    assert engine.failures >= mishaps.count
    assert sum(thread.is_alive() for thread in engine._threads) == threads

    work = engine.work
    for number in range(places):
        running[start(engine, networks[0], pool[number % len(pool)])] = number % len(pool), 0
    before, lengths = lost, sum(len(pool[number]) for number, _ in running.values())
    while running:
        assert select.select([engine], [], [], 60)[0], "it does not ring"
        settle()
    assert lost == before
    assert engine.work.lane_steps - work.lane_steps == lengths


def test_what_a_failed_thread_held_is_lost_and_no_other(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    engine, network = make(1, budget=10), Faulty(0)
    hangs = start(engine, network, [HANGS])
    assert network.hanging.wait(60)
    held = [start(engine, network, tokens) for tokens in ([3, 4], [ESCAPES], [3, 4])]
    waits = start(engine, network, [3, 4, 5, 6, 7, 8])
    network.released.set()
    outcomes = dict(collect(engine, 5))
    assert all(isinstance(outcomes[sequence], EngineLost) for sequence in held)
    assert isinstance(outcomes[hangs], list)
    assert isinstance(outcomes[waits], list)
    assert engine.failures == 1


def test_a_failure_is_logged(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    engine = make(1)
    start(engine, Faulty(0), [ESCAPES])
    collect(engine, 1)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert record.exc_info[0] is Escape


def test_a_thread_that_hangs_shows_in_its_pulse_and_the_others_go_on(make: Make) -> None:
    engine, network = make(2), Faulty(0)
    assert engine.pulses == [(0, False), (0, False)]
    hung = start(engine, network, [3, HANGS])
    assert network.hanging.wait(60)
    for _ in range(20):
        start(engine, network, [3] * 5)
        collect(engine, 1)
    until(lambda: sorted(engine.pulses) == [(0, True), (20, False)])
    network.released.set()
    [(sequence, result)] = collect(engine, 1)
    assert sequence is hung
    assert isinstance(result, list)
    until(lambda: sorted(engine.pulses) == [(1, False), (20, False)])


def test_a_thread_that_cannot_begin_anew_breaks_the_engine(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(2)

    class Ended:
        def is_alive(self) -> bool:
            return False

        def join(self, timeout: float) -> None:
            pass

    monkeypatch.setattr(engine, "_threads", [*engine._threads, Ended()])
    with pytest.raises(RuntimeError, match="an engine thread has ended"):
        engine.collect()
