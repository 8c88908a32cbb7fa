"""Every caller of the batcher gets exactly one ending, whatever happens to the others."""

import asyncio
import logging
import types
from typing import Any

import pytest

from service.batcher import BYTES_A_TOKEN, Batcher
from service.errors import DeadlineExceeded, EngineFailed, NotReady, Overloaded
from service.metrics import Metrics
from tests.batching import ask, batching, until_nothing_is_left
from tests.fake_engine import POISON, Fake, right

pytestmark = pytest.mark.anyio


async def test_results_stand_in_the_order_of_the_request() -> None:
    fake = Fake(per_step=1)  # short ones end before long ones
    async with batching(fake) as batcher:
        rows = [[7] * length for length in (5, 1, 4, 2, 3)]
        answer = await ask(batcher, *rows)
        assert answer.logits == [right(row) for row in rows]
        assert answer.queue >= 0
        assert answer.compute >= 0


async def test_requests_in_flight_are_computed_together_without_a_timer() -> None:
    fake = Fake(lanes=8)
    async with batching(fake) as batcher:
        fake.gate.clear()
        tasks = [ask(batcher, [n], [n, n]) for n in range(1, 6)]
        await asyncio.sleep(0)
        assert len(fake.started) == 8, "at once, as long as there is room"
        fake.gate.set()
        for n, task in enumerate(tasks, 1):
            assert (await task).logits == [right([n]), right([n, n])]
        assert [len(step) for step in fake.steps] == [8, 2]


async def test_short_ones_leave_their_lanes_to_others_while_a_long_one_runs() -> None:
    fake = Fake(lanes=2, per_step=1)
    async with batching(fake) as batcher:
        await ask(batcher, [1] * 5, [2], [3], [4])
    assert [len(step) for step in fake.steps] == [2, 2, 2, 1, 1]
    assert [step[0] for step in fake.steps] == [[1] * 5] * 5


async def test_an_idle_engine_is_left_alone(fake: Fake) -> None:
    async with batching(fake) as batcher:
        await ask(batcher, [1])
        seen = batcher._noted
        await asyncio.sleep(0.05)
        assert len(fake.steps) == 1
        assert batcher._noted == seen, "no polling"


async def test_a_failing_sequence_fails_its_request_alone(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    async with batching(fake) as batcher:
        before, poisoned, after = ask(batcher, [1]), ask(batcher, [2], [POISON], [3]), ask(batcher, [4])
        with pytest.raises(EngineFailed, match="could not compute a sequence") as caught:
            await poisoned
        assert isinstance(caught.value.__cause__, ArithmeticError)
        assert [(await task).logits for task in (before, after)] == [[right([1])], [right([4])]]
        await until_nothing_is_left(batcher, fake, 32)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    assert "poisoned" in caplog.text


async def test_what_is_left_of_a_request_that_failed_is_not_computed() -> None:
    fake = Fake(lanes=2, per_step=1)
    async with batching(fake) as batcher:
        with pytest.raises(EngineFailed):
            await ask(batcher, [POISON], [1] * 500, *([2] for _ in range(50)))
        await until_nothing_is_left(batcher, fake, 2)
    assert fake.cancelled[0] == [1] * 500
    assert len(fake.started) < 10


async def test_several_failures_in_one_request_are_one_ending(fake: Fake) -> None:
    async with batching(fake) as batcher:
        with pytest.raises(EngineFailed):
            await ask(batcher, [POISON], [1], [POISON])
        await until_nothing_is_left(batcher, fake, 32)


async def test_a_sequence_that_cannot_start_fails_its_request_alone() -> None:
    fake = Fake(lanes=1)
    fake.start_fails = MemoryError("no room")
    async with batching(fake) as batcher:
        refused, other = ask(batcher, [1], [2]), ask(batcher, [3])
        with pytest.raises(EngineFailed) as caught:
            await refused
        assert isinstance(caught.value.__cause__, MemoryError)
        assert (await other).logits == [right([3])]
        fake.start_fails = MemoryError("no room")
        with pytest.raises(EngineFailed):
            await ask(batcher, [4])
        assert (await ask(batcher, [5])).logits == [right([5])]
        await until_nothing_is_left(batcher, fake, 1)


async def test_one_that_waits_does_not_miss_the_room_of_one_that_cannot_start() -> None:
    fake = Fake(lanes=1)
    async with batching(fake) as batcher:
        fake.gate.clear()
        running, refused, waiting = ask(batcher, [1]), ask(batcher, [2]), ask(batcher, [3])
        await asyncio.sleep(0)
        fake.start_fails = MemoryError("no room")
        fake.gate.set()
        with pytest.raises(EngineFailed):
            await refused
        assert (await running).logits == [right([1])]
        assert (await waiting).logits == [right([3])]


async def test_a_caller_that_leaves_frees_its_place() -> None:
    fake = Fake(lanes=2)
    async with batching(fake, queue_tokens=5) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1], [1])
        await asyncio.sleep(0)
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
        await until_nothing_is_left(batcher, fake, 2)
    assert [2, 2] not in fake.started


async def test_a_caller_that_leaves_while_it_runs_frees_its_lane() -> None:
    fake = Fake(lanes=1, per_step=1)
    async with batching(fake) as batcher:
        running, waiting = ask(batcher, [1] * 500), ask(batcher, [2])
        await asyncio.sleep(0)
        running.cancel()
        assert (await waiting).logits == [right([2])]
        assert fake.cancelled == [[1] * 500]
        assert running.cancelled()


async def test_a_deadline_in_the_queue() -> None:
    fake = Fake(lanes=1)
    async with batching(fake) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1])
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded, match="no answer by the deadline"):
            await ask(batcher, [2], [3], seconds=0.05)  # the gate is closed: it does not wait for the engine
        assert batcher._scheduler.tokens == 0
        fake.gate.set()
        assert (await running).logits == [right([1])]
        await until_nothing_is_left(batcher, fake, 1)
    assert fake.started == [[1]]


async def test_a_deadline_that_has_passed_is_not_started(fake: Fake) -> None:
    async with batching(fake) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, [1], [2], seconds=-0.001)
        await until_nothing_is_left(batcher, fake, 32)
    assert fake.started == []


async def test_a_deadline_while_it_runs(fake: Fake) -> None:
    async with batching(fake) as batcher:
        fake.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, [1], seconds=0.05)
        assert fake.cancelled == [[1]]
        fake.gate.set()
        await until_nothing_is_left(batcher, fake, 32)
        assert (await ask(batcher, [2])).logits == [right([2])]


async def test_a_deadline_between_steps() -> None:
    fake = Fake(per_step=1)
    async with batching(fake, queue_tokens=1_000_000) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, [1] * 900_000, seconds=0.05)
        await until_nothing_is_left(batcher, fake, 32)
        assert len(fake.cancelled) == 1


async def test_a_full_queue_refuses_whole_requests() -> None:
    fake = Fake(lanes=1)
    async with batching(fake, queue_tokens=10) as batcher:
        fake.gate.clear()
        running = ask(batcher, [1])
        await asyncio.sleep(0)
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


async def test_urgent_requests_go_ahead() -> None:
    fake = Fake(lanes=1)
    async with batching(fake) as batcher:
        fake.gate.clear()
        tasks = [ask(batcher, [1]), ask(batcher, [2]), ask(batcher, [3], urgent=True)]
        await asyncio.sleep(0)
        fake.gate.set()
        await asyncio.gather(*tasks)
    assert fake.started == [[1], [3], [2]]


async def test_the_drain_rate_is_measured_while_the_engine_works(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("service.batcher.time", types.SimpleNamespace(monotonic=lambda: now))
    async with batching(fake) as batcher:
        for _ in range(3):
            now += 50.0  # idle
            fake.gate.clear()
            running = ask(batcher, [1] * 6, [1] * 4, seconds=1000)
            await asyncio.sleep(0)
            now += 2.0
            fake.gate.set()
            await running
        fake.lanes = 0
        waiting = ask(batcher, [2] * 100, seconds=1000)
        await asyncio.sleep(0)
        assert batcher._scheduler.retry_after() == 20, "100 tokens, 5 a second"
        waiting.cancel()


async def test_nothing_of_an_answered_request_is_kept_until_its_deadline(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def kept(*arguments: Any) -> asyncio.TimerHandle:
        timers.append(call_later(*arguments))
        return timers[-1]

    async with batching(fake) as batcher:
        monkeypatch.setattr(loop, "call_later", kept)
        await ask(batcher, [1], [2])
        assert [timer.cancelled() for timer in timers] == [True]


async def test_an_engine_that_fails_leaves_nobody_waiting(caplog: pytest.LogCaptureFixture) -> None:
    fake = Fake(lanes=2)
    async with batching(fake) as batcher:
        assert batcher.running
        fake.gate.clear()
        tasks = [ask(batcher, [1], [2]), ask(batcher, [3]), ask(batcher, [4])]
        await asyncio.sleep(0)
        fake.collect_fails = RuntimeError("device lost")
        fake.gate.set()
        endings = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(ending) for ending in endings] == [NotReady] * 3
        assert not batcher.running
        assert batcher.broken.is_set()
        assert not batcher._requests
        assert batcher._scheduler.tokens == 0
        with pytest.raises(NotReady):
            await ask(batcher, [5])
    assert [r.reason for r in caplog.records if r.levelname == "CRITICAL"] == ["RuntimeError"]
    assert fake.closed


async def test_requests_that_wait_are_bounded_too(fake: Fake) -> None:
    fake.lanes = 1
    async with batching(fake, queue_requests=2) as batcher:
        fake.gate.clear()
        running, *waiting = [ask(batcher, [1]), ask(batcher, [2], [2]), ask(batcher, [3])]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match=r"2 requests are waiting.*LSTMSERVE_QUEUE_REQUESTS"):
            await ask(batcher, [4])
        with pytest.raises(Overloaded):
            batcher.check_room(0)
        fake.gate.set()
        await asyncio.gather(running, *waiting)
        batcher.check_room(0)


async def test_a_body_too_long_for_the_room_is_refused_unread_if_anything_waits(fake: Fake) -> None:
    fake.lanes = 1
    async with batching(fake, queue_tokens=100) as batcher:
        batcher.check_room(1 << 30)
        fake.gate.clear()
        running, waiting = ask(batcher, [1]), ask(batcher, [2] * 90)
        await asyncio.sleep(0)
        batcher.check_room(10 * BYTES_A_TOKEN)
        with pytest.raises(Overloaded, match="more than 100 tokens would be waiting"):
            batcher.check_room(11 * BYTES_A_TOKEN)
        fake.gate.set()
        await asyncio.gather(running, waiting)


async def test_what_is_on_its_way_to_the_queue_holds_its_room(fake: Fake) -> None:
    """As long texts are, which are tokenised before they can be queued."""
    async with batching(fake, queue_tokens=100, queue_requests=3) as batcher:
        first = batcher.reserve(60 * BYTES_A_TOKEN)
        batcher.check_room(1 << 30, first)  # before it there is nothing
        batcher.check_room(40 * BYTES_A_TOKEN)
        with pytest.raises(Overloaded):
            batcher.check_room(41 * BYTES_A_TOKEN)
        second = batcher.reserve(40 * BYTES_A_TOKEN)
        with pytest.raises(Overloaded):
            batcher.check_room(41 * BYTES_A_TOKEN, second)
        third = batcher.reserve(0)
        with pytest.raises(Overloaded, match="3 requests"):
            batcher.check_room(0)
        first.release()
        batcher.check_room(100 * BYTES_A_TOKEN, second)  # nothing is before it any more
        for reservation in (first, second, third):
            reservation.release()
        batcher.check_room(1 << 30)


async def test_a_deadline_that_has_passed_is_told_at_the_door(fake: Fake) -> None:
    async with batching(fake) as batcher:
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, [1], seconds=0.0)
        assert fake.started == []


async def test_what_is_dropped_is_counted(fake: Fake) -> None:
    fake.lanes = 1
    metrics = Metrics()
    batcher = Batcher(fake, metrics, queue_tokens=100, queue_requests=10)

    def dropped(reason: str) -> float | None:
        return metrics.registry.get_sample_value("lstmserve_sequences_dropped_total", {"reason": reason})

    batcher.start()
    fake.gate.clear()
    leaving, late = ask(batcher, [1], [2], [3]), ask(batcher, [4], [5], seconds=0.01)
    await asyncio.sleep(0)
    leaving.cancel()
    assert isinstance((await asyncio.gather(late, return_exceptions=True))[0], DeadlineExceeded)
    assert (dropped("left"), dropped("deadline")) == (3, 2)
    await batcher.close()


async def test_close_ends_those_who_wait(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.lanes = 1
    batcher = Batcher(fake, Metrics(), queue_tokens=10, queue_requests=10)
    assert not batcher.running
    batcher.start()
    assert batcher.running
    fake.gate.clear()
    tasks = [ask(batcher, [1]), ask(batcher, [2])]
    await asyncio.sleep(0)
    await batcher.close()
    assert fake.closed
    assert not batcher.running
    assert not batcher.broken.is_set()
    for task in tasks:
        with pytest.raises(NotReady, match="the service stops"):
            await task
    with pytest.raises(NotReady):
        await ask(batcher, [3])
    assert not caplog.records


async def test_a_thread_that_does_not_end_is_told(fake: Fake, caplog: pytest.LogCaptureFixture) -> None:
    fake.closes = False
    async with batching(fake):
        pass
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "left in a step" in caplog.text
