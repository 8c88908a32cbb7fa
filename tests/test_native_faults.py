"""Faults in the way of sequences on the native engine: one ending each, and nobody else hears of them."""

import itertools
import random
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from models.artifact import Artifact, GoldenCase
from service.engine import native
from service.engine.native import NativeEngine
from service.errors import DeadlineExceeded, EngineFailed, EngineLost
from service.sequence import Outcome, Sequence
from tests.faulty_core import faulty_core, until
from tests.native_core import random_weights, wide_config

WORDS = 40
"""Token ids below are met without a fault; each of the others has one of its own."""

VOCABULARY = 8000
FAULTS = 300
"""That are met in each storm, at least, and of each kind one."""

QUANTUM = 8
"""Steps of its group within which a sequence that nobody wants leaves its lane (native/worker.cpp)."""

ALONE = [("place", "no_memory"), ("step", "not_finite"), ("head", "no_memory"), ("head", "not_finite")]
THREAD = [("place", "error"), ("step", "no_memory"), ("step", "error"), ("head", "error")]
BETWEEN_LAYERS = [("advance", "no_memory"), ("advance", "error")]
RAISED = {("start", "no_memory"): MemoryError, ("start", "error"): RuntimeError}

poison = itertools.count(WORDS)
Make = Callable[..., NativeEngine]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Any:
    core = faulty_core()
    monkeypatch.setattr(native, "_core", core)
    return core


@pytest.fixture
def make(core: Any) -> Iterator[Make]:
    made: list[NativeEngine] = []

    def one(threads: int, lanes: int) -> NativeEngine:
        made.append(NativeEngine(threads=threads, lanes=lanes, precision="auto", table_mb=1))
        return made[-1]

    yield one
    for token in core.met():
        core.release(token)
    assert all(engine.close() for engine in made)


def load(engine: NativeEngine, **fields: Any) -> Any:
    config = wide_config(**{"vocab_size": VOCABULARY, "hidden_size": 12, "pooling": ("last", "max"), **fields})
    version = Artifact(config, random_weights(config), None, [GoldenCase(token_ids=[1], logits=[0.0, 0.0])])
    return engine.load(version, next(iter(engine.precisions)))


def start(engine: NativeEngine, model: Any, tokens: list[int], seconds: float = 600) -> Sequence:
    now = time.monotonic()
    sequence = Sequence(tokens, model, now + seconds, now)
    engine.start(sequence)
    return sequence


def collect(engine: NativeEngine, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while len(outcomes) < count:
        assert select.select([engine], [], [], 60)[0], "it does not ring"
        outcomes += engine.collect()
    return outcomes


def alone(engine: NativeEngine, model: Any, tokens: list[int]) -> list[float]:
    start(engine, model, tokens)
    [(_, result)] = collect(engine, 1)
    assert isinstance(result, list)
    return result


def inject(core: Any, point: str, fault: str) -> int:
    """A token id that has this fault."""
    token = next(poison)
    assert token < VOCABULARY
    core.inject(point, token, fault)
    return token


class Kind(NamedTuple):
    """Sequences of one model: the model, its directions of all layers, and the faults that they can meet."""

    model: Any
    parts: int
    faults: list[tuple[str, str]]


class Storm:
    """Sequences that are started, cancelled and collected at random on one engine, many with a fault in their way."""

    def __init__(self, core: Any, engine: NativeEngine, seed: int) -> None:
        self.core, self.engine, self.draw = core, engine, random.Random(seed)
        faults = [*ALONE, *THREAD, *RAISED]
        self.kinds = [
            Kind(load(engine, num_layers=2), 4, faults + BETWEEN_LAYERS),
            Kind(load(engine, cell="gru", bidirectional=False), 1, faults),
        ]
        self.pool = [(self.draw.choice(self.kinds), self.words()) for _ in range(40)]
        self.right = [alone(engine, kind.model, tokens) for kind, tokens in self.pool]
        self.running: dict[Sequence, tuple[int, int]] = {}
        """With the number in the pool, and the token id that has a fault, or -1."""
        self.faults: dict[int, tuple[str, str]] = {}
        self.raised = 0
        self.places = engine.room
        self.lost = 0
        """Sequences without a fault of their own that a failed thread held."""

    def words(self) -> list[int]:
        return [self.draw.randrange(WORDS) for _ in range(1 + int(self.draw.expovariate(1 / 25)))]

    def met(self) -> Counter[tuple[str, str]]:
        return Counter(self.faults[token] for token in self.core.met() if token in self.faults)

    def start(self, share: float) -> None:
        """One sequence; it has a fault with the probability `share`."""
        number = self.draw.randrange(len(self.pool))
        (kind, tokens), token = self.pool[number], -1
        if self.draw.random() < share:
            point, fault = self.draw.choice(kind.faults)
            token = inject(self.core, point, fault)
            self.faults[token] = point, fault
            at = self.draw.randint(0, len(tokens))
            tokens = [*tokens[:at], token, *tokens[at:]]
        expected = RAISED.get(self.faults.get(token, ("", "")))
        if expected:
            with pytest.raises(expected):
                start(self.engine, kind.model, tokens)
            self.raised += 1
            return
        sequence = start(self.engine, kind.model, tokens)
        self.running[sequence] = number, token
        if self.draw.random() < 0.05:
            cancelled = self.draw.choice(list(self.running))
            del self.running[cancelled]
            self.engine.cancel(cancelled)

    def collect(self) -> None:
        outcomes = self.engine.collect()
        met = set(self.core.met())
        for sequence, result in outcomes:
            number, token = self.running.pop(sequence)  # its one ending
            if token < 0 and not isinstance(result, EngineLost):
                assert result == self.right[number]
            elif token < 0:
                self.lost += 1
            elif token in met and self.faults[token] in ALONE + BETWEEN_LAYERS[:1]:
                # before it ends, the thread that steps its other direction may fail
                taken = self.faults[token][0] in ("place", "step") and isinstance(result, EngineLost)
                assert isinstance(result, EngineFailed) or taken, self.faults[token]
            else:
                assert isinstance(result, EngineLost)

    def drain(self) -> None:
        while self.engine.room < self.places:
            assert select.select([self.engine], [], [], 60)[0], "it does not ring"
            self.collect()
        assert not self.running


@pytest.mark.parametrize(
    ("threads", "lanes", "seed"), [(1, 1, 0), (1, 5, 1), (2, 1, 2), (2, 4, 3), (3, 3, 4), (4, 6, 5), (2, 12, 6)]
)
def test_a_thousand_faults(core: Any, make: Make, threads: int, lanes: int, seed: int) -> None:
    """Two thousand, in seven storms."""
    engine = make(threads, lanes)
    storm = Storm(core, engine, seed)
    before = tasks()
    every = {*ALONE, *THREAD, *BETWEEN_LAYERS, *RAISED}
    while storm.met().total() < FAULTS or storm.met().keys() != every:
        while engine.room and storm.draw.random() < 0.9:
            storm.start(0.25)
        storm.collect()
    storm.drain()
    met = storm.met()
    assert storm.raised == sum(met[kind] for kind in RAISED)
    failures = sum(met[kind] for kind in (*THREAD, BETWEEN_LAYERS[1]))
    until(lambda: engine.failures == failures)
    assert storm.lost <= failures * lanes * 5, "no more than all groups of a thread held"
    until(lambda: not any(pulse.busy for pulse in engine.pulses))
    assert core_counts(engine) == (0, 0)
    assert len(engine.pulses) == threads
    assert tasks() == before

    work = engine.work
    quiet = [storm.draw.choice(storm.pool) for _ in range(engine.room)]
    started = {start(engine, kind.model, tokens): (kind, tokens) for kind, tokens in quiet}
    for sequence, result in collect(engine, len(quiet)):
        assert result == storm.right[storm.pool.index(started[sequence])]
    assert engine.work.lane_steps - work.lane_steps == sum(kind.parts * len(tokens) for kind, tokens in quiet)


def core_counts(engine: NativeEngine) -> tuple[int, int]:
    """Jobs that have lanes, sequences that have not ended."""
    counts: tuple[int, int] = engine._core.counts()  # type: ignore[attr-defined]
    return counts


def tasks() -> int:
    """Threads of the process, C++'s included."""
    folder = Path("/proc/self/task")
    return len(list(folder.iterdir())) if folder.exists() else threading.active_count()


def test_what_waits_for_a_lane_is_not_lost(core: Any, make: Make) -> None:
    engine = make(1, 1)
    model = load(engine, bidirectional=False)
    right = alone(engine, model, [3, 4, 5])
    faulty = start(engine, model, [3, inject(core, "step", "error"), 3])
    waits = start(engine, model, [3, 4, 5])
    outcomes = dict(collect(engine, 2))
    assert isinstance(outcomes[faulty], EngineLost)
    assert outcomes[waits] == right


def test_a_failed_thread_loses_what_it_held_and_no_other(core: Any, make: Make) -> None:
    engine = make(2, 2)
    model = load(engine, bidirectional=False)
    words = [3, 4, 5] * 30
    right = alone(engine, model, words)
    first, second = (inject(core, "step", "hang") for _ in range(2))
    elsewhere = start(engine, model, [first, *words])
    until(lambda: first in core.met())
    faulty = start(engine, model, [second, *[3] * 20, inject(core, "step", "error")])
    until(lambda: second in core.met())  # both threads hang
    beside, waits = start(engine, model, words), start(engine, model, [3] * 5)
    core.release(second)
    outcomes = dict(collect(engine, 3))
    assert isinstance(outcomes[faulty], EngineLost)
    assert isinstance(outcomes[beside], EngineLost), "it had the lane beside the faulty one"
    assert isinstance(outcomes[waits], list)
    assert alone(engine, model, words) == right
    assert engine.failures == 1
    core.release(first)
    [(sequence, result)] = collect(engine, 1)
    assert sequence is elsewhere
    assert result == alone(engine, model, [first, *words])


def test_a_thread_that_hangs_shows_in_its_pulse_and_the_others_go_on(core: Any, make: Make) -> None:
    engine = make(2, 4)
    model = load(engine, bidirectional=False)
    assert [pulse.busy for pulse in engine.pulses] == [False, False]
    token = inject(core, "step", "hang")
    hung = start(engine, model, [3, token, 4])
    until(lambda: token in core.met())
    before = engine.pulses
    for _ in range(20):
        alone(engine, model, [3] * 50)
    until(lambda: sum(pulse.busy for pulse in engine.pulses) == 1)
    stuck = [now for now, then in zip(engine.pulses, before, strict=True) if now == then and now.busy]
    assert len(stuck) == 1
    core.release(token)
    [(sequence, result)] = collect(engine, 1)
    assert sequence is hung
    assert isinstance(result, list)
    until(lambda: not any(pulse.busy for pulse in engine.pulses))
    assert engine.pulses[before.index(stuck[0])].beats > stuck[0].beats


@pytest.mark.parametrize("at", [1, 7, 8, 9, 30])
@pytest.mark.parametrize("why", ["cancelled", "overdue"])
def test_what_nobody_wants_leaves_its_lane_within_eight_steps(core: Any, make: Make, at: int, why: str) -> None:
    """It hangs in the step `at` while it is cancelled, or its deadline passes."""
    engine = make(1, 2)
    model = load(engine, bidirectional=False)
    token = inject(core, "step", "hang")
    for seconds in (0.05, 1, 20):  # where its thread gets no time at first, the deadline passes before the step
        before = engine.work.steps
        unwanted = start(engine, model, [*[3] * (at - 1), token, *[3] * 100_000], seconds)
        until(lambda: token in core.met() or bool(engine.collect()))
        if token in core.met():
            break
    assert engine.work.steps == before + at
    assert engine.pulses[0].beats > at, "one a step"
    if why == "cancelled":
        engine.cancel(unwanted)
    else:
        until(lambda: time.monotonic() > unwanted.deadline)
    core.release(token)

    def gone() -> bool:
        assert all(isinstance(result, DeadlineExceeded) for _, result in engine.collect())
        return engine.room == 4

    until(gone)
    assert engine.work.steps < before + at + QUANTUM
    assert core_counts(engine) == (0, 0)


EXIT = """
import sys, time
from tests.faulty_core import load_core
import service.engine
core = sys.modules["service.engine._core"] = service.engine._core = load_core(sys.argv[1])
import tests.test_native_faults as faults
engine = faults.NativeEngine(threads=2, lanes=2, precision="auto", table_mb=1)
model = faults.load(engine, bidirectional=False)
token = faults.inject(core, sys.argv[2], "hang")
faults.start(engine, model, [3, token, 3])
faults.until(lambda: token in core.met())
print([pulse.busy for pulse in engine.pulses].count(True), flush=True)
if sys.argv[3] == "close":
    print(engine.close(), engine.close(), flush=True)
"""
"""An engine with a thread that never comes back, closed or left as it is at the end of the process."""


@pytest.mark.parametrize(("how", "said"), [("close", "1\nFalse False\n"), ("leave", "1\n")])
def test_a_process_ends_though_a_thread_hangs(core: Any, how: str, said: str) -> None:
    command = [sys.executable, "-c", EXIT, core.__file__, "step", how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == (said, 0), done.stderr


def test_a_thread_that_comes_back_after_the_engine_was_closed_does_no_harm(core: Any) -> None:
    engine = NativeEngine(threads=1, lanes=2, precision="auto", table_mb=1)
    before = tasks()
    token = inject(core, "place", "hang")
    start(engine, load(engine), [3, token])
    until(lambda: token in core.met())
    assert not engine.close()
    del engine
    core.release(token)
    until(lambda: tasks() < before)
