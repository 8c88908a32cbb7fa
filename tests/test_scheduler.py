"""The scheduler against a plain list, under random interleavings. Nothing here sleeps: time is an argument."""

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.errors import Overloaded
from service.scheduler import HALF_LIFE, HEAD_START, Scheduler
from service.sequence import Sequence

LIMIT = 100
MOST_REQUESTS = 6
FOREVER = math.inf


def sequence(length: int = 1, arrived: float = 0.0, *, deadline: float = FOREVER, urgent: bool = False) -> Sequence:
    return Sequence([1] * length, "weights", deadline, arrived, urgent)


class Interleavings(RuleBasedStateMachine):
    """Admit, take and abandon in any order; `waiting` is what a list sorted by rank would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMIT, MOST_REQUESTS)
        self.now = 0.0
        self.waiting: list[Sequence] = []
        self.left: list[Sequence] = []  # by any way out
        self.requests: list[list[Sequence]] = []
        self.rank: dict[Sequence, float] = {}
        self.drains: list[tuple[int, float]] = []  # tokens and seconds, the latest first

    @rule(seconds=st.floats(0, 2))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), urgent=st.booleans(), seconds=st.floats(0, 4))
    def admit(self, lengths: list[int], urgent: bool, seconds: float) -> None:
        request = [sequence(n, self.now, deadline=self.now + seconds, urgent=urgent) for n in lengths]
        fits = not self.waiting or (
            sum(lengths) + sum(len(s.token_ids) for s in self.waiting) <= LIMIT and len(self.asking()) < MOST_REQUESTS
        )
        if fits:
            pace = self.pace()
            for number, one in enumerate(request, 1):
                self.rank[one] = self.now - HEAD_START * urgent + sum(lengths[:number]) * pace
            self.scheduler.admit(request)
            self.waiting += request
            self.requests.append(request)
        else:
            with pytest.raises(Overloaded):
                self.scheduler.admit(request)

    @rule(room=st.integers(0, 10))
    def take(self, room: int) -> None:
        ready: list[Sequence] = []
        overdue: list[Sequence] = []
        for candidate in sorted(self.waiting, key=self.ranked):  # stable: by admission
            if len(ready) == room:
                break
            (overdue if candidate.deadline <= self.now else ready).append(candidate)
        taken = self.scheduler.take(room, self.now)
        assert taken.ready == ready
        assert taken.overdue == overdue
        self.waiting = [s for s in self.waiting if s not in ready and s not in overdue]
        self.left += ready + overdue

    def asking(self) -> list[list[Sequence]]:
        """Requests of which a sequence waits."""
        return [request for request in self.requests if any(one in self.waiting for one in request)]

    def ranked(self, one: Sequence) -> float:
        """Rounded: the sums of the two sides differ in their order."""
        return round(self.rank[one], 9)

    @rule(tokens=st.integers(0, 50), seconds=st.sampled_from([0.0, 0.25, 1.0, 8.0]))
    def drained(self, tokens: int, seconds: float) -> None:
        self.scheduler.drained(tokens, seconds)
        self.drains.insert(0, (tokens, seconds))

    def pace(self) -> float:
        """Seconds a token: tokens and seconds of each drain count half for every half-life of work after it."""
        after = 0.0
        all_tokens = all_seconds = 0.0
        for tokens, seconds in self.drains:
            all_tokens += tokens * 0.5 ** (after / HALF_LIFE)
            all_seconds += seconds * 0.5 ** (after / HALF_LIFE)
            after += seconds
        return all_seconds / all_tokens if all_tokens else 0.0

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        who = data.draw(st.sampled_from(self.waiting))
        self.scheduler.abandon(who)
        self.waiting.remove(who)
        self.left.append(who)

    @invariant()
    def accounts(self) -> None:
        assert self.scheduler.sequences == len(self.waiting)
        assert self.scheduler.tokens == sum(len(s.token_ids) for s in self.waiting)
        assert self.scheduler.tokens <= LIMIT or len(self.asking()) == 1, "alone it may be larger than the queue"
        assert self.scheduler.requests == len(self.asking()) <= MOST_REQUESTS
        assert all(s.waiting for s in self.waiting)
        assert not any(s.waiting for s in self.left)
        assert len(set(self.left)) == len(self.left), "a sequence leaves the queue once"


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_a_request_is_refused_whole() -> None:
    scheduler = Scheduler(10, 1000)
    scheduler.admit([sequence(6)])
    refused = [sequence(1), sequence(4)]
    with pytest.raises(Overloaded, match="more than 10 tokens would be waiting") as caught:
        scheduler.admit(refused)
    assert caught.value.headers == {"Retry-After": "1"}
    assert (scheduler.sequences, scheduler.tokens) == (1, 6)
    taken = scheduler.take(10, 1.0)
    assert len(taken.ready) == 1
    assert taken.ready[0] not in refused
    scheduler.admit(refused)  # now it fits, to the last token
    scheduler.admit([sequence(5)])
    assert scheduler.tokens == 10


def test_urgent_goes_ahead_by_its_head_start_and_no_more() -> None:
    scheduler = Scheduler(100, 1000)
    old, recent = sequence(arrived=0.0), sequence(arrived=HEAD_START + 0.001)
    urgent = sequence(arrived=HEAD_START + 0.5, urgent=True)
    later = [sequence(arrived=HEAD_START + 0.6 + n / 100, urgent=True) for n in range(20)]
    for one in (old, recent, urgent, *later):
        scheduler.admit([one])
    order = scheduler.take(100, 5.0).ready
    assert order.index(old) == 0, "waited longer than the head start"
    assert order.index(urgent) == 1
    assert order.index(recent) == 22, "all that are urgent and came less than the head start later"
    patient = sequence(arrived=10.0)
    scheduler.admit([patient])
    scheduler.admit([sequence(arrived=10.0 + HEAD_START + 0.01 + n, urgent=True) for n in range(50)])
    assert scheduler.take(1, 70.0).ready == [patient], "no stream of urgent ones starves it"


def test_a_large_request_does_not_stand_before_all_that_come_later() -> None:
    scheduler = Scheduler(10_000, 1000)
    scheduler.drained(200, 1.0)
    large = [sequence(100, arrived=0.0) for _ in range(20)]  # 10 seconds of work, half a second each
    scheduler.admit(large)
    small, urgent = sequence(1, arrived=3.2), sequence(1, arrived=3.3, urgent=True)
    scheduler.admit([small])
    scheduler.admit([urgent])
    order = scheduler.take(4, 3.4).ready + scheduler.take(4, 3.4).ready
    assert order == [*large[:4], urgent, *large[4:6], small]


def test_short_ones_overtake_long_ones_that_have_not_waited_as_long_as_they_take() -> None:
    scheduler = Scheduler(10_000, 1000)
    scheduler.drained(1000, 1.0)
    long = sequence(2000, arrived=0.0)  # 2 seconds of work
    scheduler.admit([long])
    early, late = sequence(10, arrived=1.98), sequence(10, arrived=2.0)
    scheduler.admit([late])
    scheduler.admit([early])
    assert scheduler.take(9, 2.0).ready == [early, long, late], "no stream of short ones starves it"


def test_equal_ranks_keep_the_order_of_arrival() -> None:
    scheduler = Scheduler(100, 1000)
    batch = [sequence(arrived=1.0) for _ in range(30)]
    scheduler.admit(batch)
    assert scheduler.take(7, 2.0).ready + scheduler.take(100, 2.0).ready == batch


def test_overdue_ones_are_told_once_and_take_no_room() -> None:
    scheduler = Scheduler(100, 1000)
    late, on_time = [sequence(2, deadline=1.0) for _ in range(3)], [sequence(2, deadline=1.1) for _ in range(2)]
    scheduler.admit(late + on_time)
    taken = scheduler.take(2, 1.0)
    assert taken.overdue == late
    assert taken.ready == on_time
    again = scheduler.take(2, 2.0)
    assert again.overdue == again.ready == []
    assert (scheduler.sequences, scheduler.tokens) == (0, 0)


def test_those_who_leave_free_their_place_at_once_and_do_not_pile_up() -> None:
    scheduler = Scheduler(2, 1000)
    stays = sequence(arrived=0.0)
    scheduler.admit([stays])
    for n in range(5000):
        leaves = sequence(arrived=float(n))
        scheduler.admit([leaves])  # would be refused, had the last one kept its place
        scheduler.abandon(leaves)
        assert len(scheduler._queue) <= 67
    assert scheduler.take(9, 0.0).ready == [stays]
    assert scheduler.take(9, 0.0).ready == []


def test_retry_after_is_the_measured_time_to_drain_the_queue() -> None:
    scheduler = Scheduler(10_000, 1000)
    assert scheduler.retry_after() == 1, "nothing measured"
    scheduler.admit([sequence(1000)])
    scheduler.drained(0, 1.0)
    assert scheduler.retry_after() == 1, "nothing finished"
    scheduler = Scheduler(10_000, 1000)
    scheduler.admit([sequence(1000)])
    for _ in range(10):
        scheduler.drained(102, 0.5)  # 204 tokens a second
    assert scheduler.retry_after() == 5
    for _ in range(3):
        scheduler.drained(102, 5.0)  # ten times slower: the past fades
    assert scheduler.retry_after() == 50
    scheduler.drained(1, 30.0)
    assert scheduler.retry_after() == 60, "at most"
    for _ in range(1000):
        scheduler.drained(10_000, 0.01)
    assert scheduler.retry_after() == 1, "at least"
    with pytest.raises(Overloaded) as caught:
        scheduler.admit([sequence(9_001)])
    assert caught.value.headers["Retry-After"] == "1"


def test_the_past_fades_with_time_not_with_the_number_of_calls() -> None:
    coarse, fine = Scheduler(10_000, 1000), Scheduler(10_000, 1000)
    for scheduler in (coarse, fine):
        scheduler.drained(1000, 1.0)
        scheduler.admit([sequence(10_000)])
    coarse.drained(100, HALF_LIFE)
    for _ in range(1000):
        fine.drained(0, HALF_LIFE / 1000)
    fine.drained(100, 0.0)
    assert coarse.retry_after() == 25, "(0.5 s + 1 s) / (500 + 100) tokens"
    assert fine.retry_after() == pytest.approx(coarse.retry_after(), rel=0.25)
