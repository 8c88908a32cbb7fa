"""One engine thread over the fake engine, without asyncio: outcomes are collected from `deliver`."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from service.errors import DeadlineExceeded, EngineFailed
from service.scheduler import Scheduler
from service.sequence import Outcome, Sequence
from service.worker import Worker
from tests.fake_engine import POISON, Fake, right

WAIT = 10.0


class Bench:
    """A worker with what it needs around it."""

    def __init__(self, fake: Fake, *, lanes: int = 4, workers: int = 1) -> None:
        self.fake = fake
        self.scheduler = Scheduler(10_000, workers)
        self.changed = threading.Condition()
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        engine = fake.backend().engine
        self.worker = Worker(engine, self.scheduler, self.changed, self._deliver, lanes=lanes, budget=1000)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            self.outcomes.put(outcome)

    def admit(self, *token_ids: list[int], seconds: float = 60) -> list[Sequence]:
        now = time.monotonic()
        sequences = [Sequence(tokens, "weights", now + seconds, now) for tokens in token_ids]
        with self.changed:
            self.scheduler.admit(sequences)
            self.changed.notify_all()
        return sequences

    def abandon(self, sequence: Sequence) -> None:
        with self.changed:
            self.scheduler.abandon(sequence)

    def next(self) -> tuple[list[int], Any]:
        sequence, result = self.outcomes.get(timeout=WAIT)
        return sequence.token_ids, result.tolist() if isinstance(result, np.ndarray) else result


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def bench(fake: Fake, **options: int) -> Bench:
        made.append(Bench(fake, **options))
        return made[-1]

    yield bench
    for one in made:
        one.fake.gate.set()
        one.worker.stop()
        if one.worker.ident:
            one.worker.join(WAIT)
            assert not one.worker.is_alive()


Make = Callable[..., Bench]


def test_runs_what_waits_and_stops_when_told(fake: Fake, make: Make) -> None:
    bench = make(fake)
    bench.admit([1, 2], [3])
    bench.worker.start()
    assert [bench.next(), bench.next()] == [([1, 2], right([1, 2])), ([3], right([3]))]
    bench.admit([4])
    assert bench.next() == ([4], right([4]))
    bench.worker.stop()
    bench.worker.join(WAIT)
    assert not bench.worker.is_alive()
    bench.admit([5])
    assert bench.outcomes.empty()


def test_an_idle_worker_does_not_step(fake: Fake, make: Make) -> None:
    bench = make(fake)
    bench.worker.start()
    bench.admit([1])
    bench.next()
    while fake.stepping.acquire(blocking=False):
        pass
    assert not fake.stepping.acquire(timeout=0.2), "no polling"


def test_holds_no_more_than_its_lanes(fake: Fake, make: Make) -> None:
    bench = make(fake, lanes=3)
    bench.admit(*([n] for n in range(1, 9)))
    bench.worker.start()
    assert sorted(bench.next()[0][0] for _ in range(8)) == list(range(1, 9))
    assert [len(step) for step in fake.steps] == [3, 3, 2]


def test_short_ones_leave_their_lanes_to_others_while_a_long_one_runs(make: Make) -> None:
    fake = Fake(per_step=1)
    bench = make(fake, lanes=2)
    bench.admit([1] * 5, [2], [3], [4])
    bench.worker.start()
    assert [len(bench.next()[0]) for _ in range(4)] == [1, 1, 1, 5]
    assert [step[0] for step in fake.steps] == [[1] * 5] * 5
    assert [len(step) for step in fake.steps] == [2, 2, 2, 1, 1]


def test_leaves_the_other_workers_their_share(fake: Fake, make: Make) -> None:
    bench = make(fake, lanes=100, workers=4)
    bench.admit(*([1] for _ in range(10)))
    bench.worker.start()
    for _ in range(10):
        bench.next()
    assert len(fake.steps[0]) == 3


def test_a_sequence_that_fails_does_so_alone(fake: Fake, make: Make) -> None:
    bench = make(fake)
    bench.admit([1], [POISON], [2])
    bench.worker.start()
    results = {tuple(tokens): result for tokens, result in (bench.next() for _ in range(3))}
    assert isinstance(results.pop((POISON,)), ArithmeticError)
    assert results == {(1,): right([1]), (2,): right([2])}
    assert fake.engines == 1


def test_a_sequence_that_cannot_start_fails_alone(fake: Fake, make: Make) -> None:
    bench = make(fake)
    fake.start_fails = MemoryError("no room")
    bench.admit([1], [2])
    bench.worker.start()
    tokens, error = bench.next()
    assert tokens == [1]
    assert isinstance(error, MemoryError)
    assert bench.next() == ([2], right([2]))


def test_an_engine_that_raises_is_replaced(fake: Fake, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    bench = make(fake, lanes=2)
    fake.step_fails = RuntimeError("device lost")
    bench.admit([1], [2], [3])
    bench.worker.start()
    held = [bench.next(), bench.next()]
    assert sorted(tokens for tokens, _ in held) == [[1], [2]]
    assert all(isinstance(error, EngineFailed) for _, error in held)
    assert bench.next() == ([3], right([3])), "what it did not hold is answered by the next one"
    assert fake.engines == 2
    assert "device lost" in caplog.text


def test_what_waits_beyond_its_deadline_is_never_started(fake: Fake, make: Make) -> None:
    bench = make(fake)
    bench.admit([1], seconds=-1)
    bench.admit([2])
    bench.worker.start()
    tokens, error = bench.next()
    assert tokens == [1]
    assert isinstance(error, DeadlineExceeded)
    assert bench.next()[0] == [2]
    assert fake.started == [[2]]


def test_drops_between_steps_whose_deadline_passed_or_whose_caller_left(make: Make) -> None:
    fake = Fake(per_step=1)
    fake.gate.clear()
    bench = make(fake)
    late, left, stays = bench.admit([1] * 9, [2] * 9, [3] * 3)
    bench.worker.start()
    assert fake.stepping.acquire(timeout=WAIT)
    bench.abandon(left)
    late.deadline = time.monotonic()
    fake.gate.set()
    ends = {tuple(tokens): result for tokens, result in (bench.next() for _ in range(3))}
    assert isinstance(ends[tuple([1] * 9)], DeadlineExceeded)
    assert ends[tuple([3] * 3)] == right(stays.token_ids)
    assert fake.cancelled in ([[1] * 9, [2] * 9], [[2] * 9, [1] * 9])
    assert len(fake.steps[1]) == 1, "their lanes are free at the next step"


def test_measures_what_it_drains(fake: Fake, make: Make) -> None:
    bench = make(fake)
    bench.worker.start()
    fake.gate.clear()
    bench.admit([1] * 10)
    assert fake.stepping.acquire(timeout=WAIT)
    time.sleep(0.2)  # the step takes so long
    fake.gate.set()
    bench.next()
    bench.worker.stop()
    bench.worker.join(WAIT)
    bench.admit([1] * 100)
    assert bench.scheduler.retry_after() >= 2


def test_an_engine_that_cannot_cancel_is_replaced_and_what_it_finished_is_delivered(make: Make) -> None:
    fake = Fake(per_step=1)
    bench = make(fake)
    fake.gate.clear()
    leaves, _, stays = bench.admit([1, 1, 1], [2], [3, 3, 3])
    bench.worker.start()
    assert fake.stepping.acquire(timeout=WAIT)
    fake.cancel_fails = RuntimeError("lane lost")
    bench.abandon(leaves)
    fake.gate.set()
    assert bench.next() == ([2], right([2]))
    endings = {tuple(tokens): result for tokens, result in (bench.next(), bench.next())}
    assert all(isinstance(result, EngineFailed) for result in endings.values())
    assert endings.keys() == {tuple(leaves.token_ids), tuple(stays.token_ids)}
    bench.admit([4])
    assert bench.next() == ([4], right([4]))
    assert fake.engines == 2
