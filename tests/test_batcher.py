"""Every caller of the batcher gets exactly one ending, whatever happens to the others."""

import asyncio
import logging
import random
import threading
from collections import Counter

import pytest

from service.batcher import Answer, Batcher
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.metrics import Metrics
from tests.fake_engine import POISON, Fake, right, until

pytestmark = pytest.mark.anyio


class Batching:
    """``async with Batching(fake) as batcher``."""

    def __init__(self, fake: Fake, *, lanes: int = 32, queue_tokens: int = 1000) -> None:
        self.fake, self.lanes, self.queue_tokens = fake, lanes, queue_tokens

    async def __aenter__(self) -> Batcher:
        self.batcher = Batcher(
            self.fake.backend(), Metrics(), lanes=self.lanes, budget=1000, queue_tokens=self.queue_tokens
        )
        self.batcher.start()
        return self.batcher

    async def __aexit__(self, *_: object) -> None:
        self.fake.gate.set()
        await self.batcher.close()


def ask(batcher: Batcher, *token_ids: list[int], seconds: float = 30, urgent: bool = False) -> asyncio.Task[Answer]:
    return asyncio.create_task(batcher.run("weights", list(token_ids), seconds=seconds, urgent=urgent))


async def until_stepping(fake: Fake) -> None:
    """The engine thread stands in a step, behind the gate."""
    assert await asyncio.to_thread(fake.stepping.acquire, timeout=10)


async def until_nothing_is_left(batcher: Batcher) -> None:
    """Lanes are freed after the step in which their callers left."""

    async def nothing_is_left() -> bool:
        return not (any(w._held for w in batcher._workers) or batcher._requests or batcher._scheduler.sequences)

    await until(nothing_is_left)
    assert batcher._scheduler.tokens == 0


async def test_results_stand_in_the_order_of_the_request() -> None:
    fake = Fake(per_step=1)  # short ones end before long ones
    async with Batching(fake) as batcher:
        rows = [[7] * length for length in (5, 1, 4, 2, 3)]
        answer = await ask(batcher, *rows)
        assert answer.logits == [right(row) for row in rows]
        assert answer.queue >= 0
        assert answer.compute >= 0


async def test_requests_in_flight_are_computed_together_without_a_timer(fake: Fake) -> None:
    async with Batching(fake) as batcher:
        fake.gate.clear()
        first = ask(batcher, [1])
        await until_stepping(fake)
        others = [ask(batcher, [n], [n, n]) for n in range(2, 6)]
        await asyncio.sleep(0)
        fake.gate.set()
        assert (await first).logits == [right([1])]
        for n, other in zip(range(2, 6), others, strict=True):
            assert (await other).logits == [right([n]), right([n, n])]
        assert [len(step) for step in fake.steps] == [1, 8], "a lone one at once, then all that came meanwhile"


async def test_a_failing_sequence_fails_its_request_alone(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    async with Batching(fake) as batcher:
        fake.gate.clear()
        first = ask(batcher, [9])
        await until_stepping(fake)
        before, poisoned, after = ask(batcher, [1]), ask(batcher, [2], [POISON], [3]), ask(batcher, [4])
        await asyncio.sleep(0)
        fake.gate.set()
        with pytest.raises(EngineFailed, match="could not compute a sequence") as caught:
            await poisoned
        assert isinstance(caught.value.__cause__, ArithmeticError)
        assert [(await task).logits for task in (first, before, after)] == [[right([9])], [right([1])], [right([4])]]
        await until_nothing_is_left(batcher)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "poisoned" in caplog.text


async def test_several_failures_in_one_request_are_one_ending(fake: Fake) -> None:
    async with Batching(fake) as batcher:
        with pytest.raises(EngineFailed):
            await ask(batcher, [POISON], [1], [POISON])
        await until_nothing_is_left(batcher)


async def test_a_caller_that_leaves_frees_its_place(fake: Fake) -> None:
    async with Batching(fake, queue_tokens=5, lanes=2) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1])
        await until_stepping(fake)
        leaves, stays = ask(batcher, [2, 2], [3, 3]), ask(batcher, [4])
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(batcher, [5])
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        instead = ask(batcher, [5] * 4)
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.sleep(0)
        fake.gate.set()
        assert (await stays).logits == [right([4])]
        assert (await instead).logits == [right([5] * 4)]
        await until_nothing_is_left(batcher)
    assert [2, 2] not in fake.started


async def test_a_caller_that_leaves_while_it_runs_frees_its_lane() -> None:
    fake = Fake(per_step=1)
    async with Batching(fake, lanes=1) as batcher:
        fake.gate.clear()
        running, waiting = ask(batcher, [1] * 500), ask(batcher, [2])
        await until_stepping(fake)
        running.cancel()
        await asyncio.sleep(0)
        fake.gate.set()
        assert (await waiting).logits == [right([2])]
        assert fake.cancelled == [[1] * 500]
        assert running.cancelled()


async def test_a_deadline_in_the_queue(fake: Fake) -> None:
    async with Batching(fake, lanes=1) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1])
        await until_stepping(fake)
        with pytest.raises(DeadlineExceeded, match="no answer by the deadline"):
            await ask(batcher, [2], [3], seconds=0.05)  # the gate is closed: it does not wait for the engine
        assert batcher._scheduler.tokens == 0
        fake.gate.set()
        assert (await running).logits == [right([1])]
        await until_nothing_is_left(batcher)
    assert fake.started == [[1]]


async def test_a_deadline_while_it_runs(fake: Fake) -> None:
    async with Batching(fake) as batcher:
        fake.gate.clear()
        late = ask(batcher, [1], seconds=0.05)
        await until_stepping(fake)
        with pytest.raises(DeadlineExceeded):
            await late
        fake.gate.set()
        await until_nothing_is_left(batcher)
        assert (await ask(batcher, [2])).logits == [right([2])]


async def test_a_deadline_between_steps() -> None:
    fake = Fake(per_step=1)
    async with Batching(fake, queue_tokens=1_000_000) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, [1] * 900_000, seconds=0.05)
        await until_nothing_is_left(batcher)
        assert len(fake.cancelled) == 1


async def test_a_full_queue_refuses_whole_requests(fake: Fake) -> None:
    async with Batching(fake, queue_tokens=10, lanes=1) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1])
        await until_stepping(fake)
        waiting = ask(batcher, [2] * 9)
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await ask(batcher, [3], [4])
        assert int(caught.value.headers["Retry-After"]) >= 1
        assert (batcher._scheduler.sequences, batcher._scheduler.tokens) == (1, 9)
        assert len(batcher._requests) == 2
        fake.gate.set()
        await asyncio.gather(running, waiting)
    assert fake.started == [[1], [2] * 9], "nothing of the refused request was queued"


async def test_urgent_requests_go_ahead(fake: Fake) -> None:
    async with Batching(fake, lanes=1) as batcher:
        fake.gate.clear()
        tasks = [ask(batcher, [1])]
        await until_stepping(fake)
        tasks += [ask(batcher, [2]), ask(batcher, [3], urgent=True)]
        await asyncio.sleep(0)
        fake.gate.set()
        await asyncio.gather(*tasks)
    assert fake.started == [[1], [3], [2]]


async def test_an_engine_that_raises_is_replaced(fake: Fake) -> None:
    async with Batching(fake, lanes=2) as batcher:
        fake.gate.clear()
        fake.step_fails = RuntimeError("device lost")
        held = [ask(batcher, [1]), ask(batcher, [2])]
        waiting = ask(batcher, [3])
        await until_stepping(fake)
        fake.gate.set()
        endings = await asyncio.gather(*held, waiting, return_exceptions=True)
        assert sum(isinstance(ending, EngineFailed) for ending in endings) in (1, 2)
        assert isinstance(endings[2], Answer)
        assert batcher.healthy
        assert (await ask(batcher, [4])).logits == [right([4])]
        assert fake.engines == 2
        await until_nothing_is_left(batcher)


async def test_it_is_not_healthy_without_an_engine(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    async with Batching(fake) as batcher:
        assert batcher.healthy
        fake.step_fails, fake.make_fails = RuntimeError("device lost"), RuntimeError("still lost")
        with pytest.raises(EngineFailed):
            await ask(batcher, [1])
        await asyncio.to_thread(batcher._workers[0].join, 10)
        assert not batcher.healthy
    assert [record.levelname for record in caplog.records if "still lost" in str(record.exc_info)] == ["CRITICAL"]


async def test_close_ends_the_threads() -> None:
    fake = Fake(threads=3)
    batcher = Batcher(fake.backend(), Metrics(), lanes=1, budget=1, queue_tokens=10)
    assert not batcher.healthy
    batcher.start()
    assert batcher.healthy
    fake.gate.clear()
    running = ask(batcher, [1])
    await until_stepping(fake)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0.02)
    assert not closing.done(), "it waits for the step"
    fake.gate.set()
    await closing
    assert not any(worker.is_alive() for worker in batcher._workers)
    assert not batcher.healthy
    assert (await running).logits == [right([1])], "the step it was in is answered"
    assert not [thread for thread in threading.enumerate() if thread.name == "engine"]


@pytest.mark.parametrize("seed", range(4))
async def test_random_interleavings(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of sequences with poison, deadlines and callers that leave: one right ending each, nothing kept."""
    draw = random.Random(seed)
    fake = Fake(threads=3, per_step=draw.choice([1, 4, 4096]))
    caplog.set_level(logging.CRITICAL)
    endings: Counter[str] = Counter()
    async with Batching(fake, lanes=draw.choice([1, 3, 16]), queue_tokens=2000) as batcher:

        async def caller() -> None:
            await asyncio.sleep(draw.random() * 0.1)
            rows = [[draw.randrange(1, 39) for _ in range(draw.randrange(1, 12))] for _ in range(draw.randrange(1, 8))]
            poisoned = draw.random() < 0.15
            if poisoned:
                draw.choice(rows)[0] = POISON
            hurried = draw.random() < 0.2
            task = ask(batcher, *rows, seconds=draw.random() * 0.003 if hurried else 30, urgent=draw.random() < 0.3)
            leaves = draw.random() < 0.2
            if leaves:
                asyncio.get_running_loop().call_later(draw.random() * 0.003, task.cancel)
            try:
                answer = await task
            except Overloaded:
                endings["refused"] += 1
            except EngineFailed:
                assert poisoned
                endings["failed"] += 1
            except DeadlineExceeded:
                assert hurried
                endings["late"] += 1
            except asyncio.CancelledError:
                assert leaves
                endings["left"] += 1
            else:
                assert not poisoned
                assert answer.logits == [right(row) for row in rows]
                endings["answered"] += 1

        async with asyncio.timeout(30):
            await asyncio.gather(*(caller() for _ in range(500)))
        await until_nothing_is_left(batcher)
        assert batcher.healthy
        assert fake.engines == 3
    assert endings.total() == 500
    assert min(endings[kind] for kind in ("answered", "failed", "left")) > 0
