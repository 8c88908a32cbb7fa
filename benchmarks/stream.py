"""Engines in process under a steady load: always the same number of sequences together."""

import contextlib
import itertools
import select
import time
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from service.engine import Engine
from service.sequence import Sequence as ServedSequence

Answer = tuple[int, Sequence[float]]
"""A sequence's number and its logits."""
Run = Callable[[Sequence[list[int]], int], Generator[list[Answer], None, None]]
"""Runs the given sequences over and over, so many of them together; gives answers as they are done, without end."""


def batches(predict: Callable[[Sequence[list[int]]], npt.NDArray[np.float32]]) -> Run:
    """Batches in order of arrival."""

    def run(sequences: Sequence[list[int]], concurrent: int) -> Generator[list[Answer], None, None]:
        numbers = itertools.cycle(range(len(sequences)))
        while True:
            batch = list(itertools.islice(numbers, concurrent))
            logits = predict([sequences[number] for number in batch])
            yield list(zip(batch, logits, strict=True))

    return run


def lanes(engine: Engine, weights: Hashable) -> Run:
    """A next sequence as soon as one is done."""

    def run(sequences: Sequence[list[int]], concurrent: int) -> Generator[list[Answer], None, None]:
        numbers = itertools.cycle(range(len(sequences)))
        started: dict[ServedSequence, int] = {}

        def collect() -> Iterator[Answer]:
            select.select([engine.fileno()], [], [])
            for sequence, result in engine.collect():
                number = started.pop(sequence)
                if isinstance(result, Exception):
                    raise result
                yield number, result

        try:
            while True:
                for _ in range(min(concurrent - len(started), engine.room)):
                    number, now = next(numbers), time.monotonic()
                    sequence = ServedSequence(sequences[number], weights, deadline=now + 3600, arrived=now)
                    started[sequence] = number
                    engine.start(sequence)
                yield list(collect())
        finally:
            while started:
                list(collect())

    return run


def timed(run: Run, sequences: Sequence[list[int]], concurrent: int, seconds: float) -> tuple[float, list[Answer]]:
    """Sequences/s over at least `seconds` and whole passes, after a pass that is not timed; all answers.

    The rate counts the tokens that were done, in units of the mean sequence.
    """
    answers = run(sequences, concurrent)
    with contextlib.closing(answers):
        warm = take(answers, len(sequences))
        done: list[Answer] = []
        began = time.perf_counter()
        while (elapsed := time.perf_counter() - began) < seconds or not done:
            done += take(answers, len(sequences))
    tokens = sum(len(sequences[number]) for number, _ in done)
    return tokens / elapsed * len(sequences) / sum(map(len, sequences)), warm + done


def take(answers: Iterator[list[Answer]], count: int) -> list[Answer]:
    """`count` answers or a few more."""
    taken: list[Answer] = []
    while len(taken) < count:
        taken += next(answers)
    return taken
