"""Stages beside each other: blocks come out in order, and the engine stays full over their ends."""

import itertools
import math
import threading
from collections.abc import Iterator

import pytest

from service.engine import Pulse
from service.errors import BackendError
from service.repository import Model
from service.score.files import Block, Place
from service.score.pipeline import MOST_OPEN, Ahead, Work, compute
from service.texts import Encoded, TextError
from tests.fake_engine import POISON, Fake
from tests.tiny import tiny_config

MODEL = Model("tiny", 1, tiny_config(), "weights", "float32")


def work(number: int, *sequences: list[int]) -> Work:
    """A block whose rows are numbered from `number`; an empty sequence stands for a text that is refused."""
    numbers = range(number, number + len(sequences))
    texts = [Encoded(tokens, 0, len(tokens), 0) if tokens else TextError("empty", "") for tokens in sequences]
    block = Block([], numbers, [""] * len(texts), Place(number), 0)
    return Work(block, list(map(len, sequences)), texts)


def test_blocks_come_out_in_order_with_each_rows_own_scores(fake: Fake) -> None:
    fake.lanes, fake.per_step = 4, 1
    works = [work(10 * number, [0] * (9 - number), [], [30, number]) for number in range(9)]
    done = list(compute(iter(works), MODEL, fake))
    assert [each.block.end.rows for each in done] == list(range(0, 90, 10))
    for number, (_, values, errors) in enumerate(done):
        assert errors == {"empty": 1}
        # logits are the sum and the length
        label, negative, positive, *rest = values[0]
        assert (label, rest) == ("positive", [9 - number, 0, None])
        assert positive == pytest.approx(1 / (1 + math.exp(number - 9)), rel=1e-12)
        assert negative == pytest.approx(1 - 1 / (1 + math.exp(number - 9)), rel=1e-9)
        assert values[1] == [None, None, None, 0, 0, "empty"]
        assert values[2][0] == "negative"


def test_the_engine_stays_full_over_the_ends_of_blocks(fake: Fake) -> None:
    fake.lanes, fake.per_step = 6, 1
    works = [work(10 * number, [2, 2], [2]) for number in range(50)]
    list(compute(iter(works), MODEL, fake))
    assert all(len(step) == 6 for step in fake.steps[:-3])


def test_a_long_sequence_holds_up_some_blocks_but_not_all(fake: Fake) -> None:
    """Or what stands behind it would fill the memory."""
    fake.lanes, fake.per_step = 8, 1
    taken = 0

    def works() -> Iterator[Work]:
        nonlocal taken
        yield work(0, [3] * 200)
        for number in range(1, 300):
            taken = number
            yield work(number, [3])

    blocks = compute(works(), MODEL, fake)
    assert next(blocks).block.end.rows == 0
    assert taken <= MOST_OPEN
    assert len(list(blocks)) == 299


def test_blocks_without_a_sequence_do_not_wait(fake: Fake) -> None:
    works = [work(number, []) for number in range(3 * MOST_OPEN)]
    assert len(list(compute(iter(works), MODEL, fake))) == 3 * MOST_OPEN
    assert fake.steps == []


def test_a_row_that_cannot_be_computed_is_named(fake: Fake) -> None:
    with pytest.raises(BackendError, match=r"^row 8 cannot be computed: poisoned$"):
        list(compute(iter([work(7, [1], [POISON])]), MODEL, fake))


def test_an_engine_that_is_stuck_is_told(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.score.pipeline.WATCH_SECONDS", 0.01)
    fake.gate.clear()
    fake.pulses = [Pulse(3, busy=True)]
    blocks = compute(iter([work(1, [1])]), MODEL, fake)
    with pytest.raises(BackendError, match="thread of the engine is stuck"):
        list(blocks)


def test_a_stuck_thread_is_told_beside_one_that_works(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.score.pipeline.WATCH_SECONDS", 0.0)
    fake.per_step = 1  # it rings after every step
    fake.pulses = [Pulse(0, busy=False), Pulse(3, busy=True)]
    with pytest.raises(BackendError, match="thread of the engine is stuck"):
        list(compute(iter([work(1, [1] * 100)]), MODEL, fake))


def test_items_are_made_ahead_but_not_more_than_so_many() -> None:
    made = threading.Semaphore(0)
    count = 0

    def items() -> Iterator[int]:
        nonlocal count
        for count in itertools.count(1):
            made.release()
            yield count

    ahead = Ahead(items(), 3)
    for _ in range(4):  # three that are ready, and the one in hand
        assert made.acquire(timeout=10)
    assert not made.acquire(timeout=0.1)
    assert [next(ahead) for _ in range(10)] == list(range(1, 11))
    ahead.close()
    assert list(ahead) == []
    assert count <= 14


def test_an_error_comes_after_what_went_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ArithmeticError("odd")

    ahead = Ahead(items(), 5)
    assert next(ahead) == 1
    with pytest.raises(ArithmeticError, match="odd"):
        next(ahead)
    ahead.close()


@pytest.mark.parametrize("first", [0, 1])
def test_two_stages_close_in_either_order(first: int) -> None:
    def plus(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            yield item + 1

    stages: list[Ahead[int]] = [Ahead(itertools.count(), 2)]
    stages.append(Ahead(plus(stages[0]), 2))
    assert next(stages[1]) == 1

    def close() -> None:
        stages[first].close()
        stages[1 - first].close()

    closing = threading.Thread(target=close)
    closing.start()
    closing.join(10)
    assert not closing.is_alive()
