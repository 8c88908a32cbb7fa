"""The rate limit against a plain token bucket; the time is made up."""

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rate import Rate


class Bucket:
    """The plain reference: tokens that come back at the limit's rate."""

    def __init__(self, limit: float) -> None:
        self.limit, self.size = limit, max(1.0, limit)
        self.tokens, self.at = self.size, 0.0

    def take(self, now: float) -> float:
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.limit)
        self.at = now
        if self.tokens >= 1 - 1e-6:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.limit


@given(
    st.sampled_from([0.25, 0.5, 1, 1.5, 2, 7, 100]),
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([0, 0.01, 0.125, 0.5, 1, 4])), max_size=120),
)
def test_it_is_a_token_bucket_each(limit: float, asked: list[tuple[str, float]]) -> None:
    rate, buckets = Rate(limit), {who: Bucket(limit) for who in "ab"}
    for (who, _), now in zip(asked, accumulate(gap for _, gap in asked), strict=True):
        assert rate.take(who, now) == pytest.approx(buckets[who].take(now), abs=1e-5)


@pytest.mark.parametrize(("limit", "burst"), [(0.1, 1), (1, 1), (1.5, 1), (5, 5), (1000, 1000)])
def test_a_second_s_worth_may_come_at_once(limit: float, burst: int) -> None:
    rate = Rate(limit)
    assert [rate.take("a", 10.0) for _ in range(burst)] == [0] * burst
    wait = rate.take("a", 10.0)
    assert 0 < wait <= 1 / limit + 1e-9
    assert rate.take("a", 10.0 + wait) == 0, "who waits as told is let in"
    assert rate.take("b", 10.0) == 0, "others have buckets of their own"


def test_who_goes_on_asking_gets_no_more_than_the_limit() -> None:
    rate = Rate(10)
    admitted = sum(rate.take("a", 1 + tick / 1000) == 0 for tick in range(60_000))
    assert admitted == 10 + 599, "a second's worth at once, then one every tenth of a second"


def test_memory_is_bounded_and_who_asks_is_remembered() -> None:
    rate = Rate(1, most=10)
    assert rate.take("a", 0) == 0
    for stranger in range(1000):
        rate.take(stranger, 0)
        assert rate.take("a", 0) > 0, "it has just asked: it is not the one to forget"
    assert len(rate._full) == 10
    assert rate.take(0, 0) == 0, "forgotten long ago"
