from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.batches import Batch, grid_length, predict_sequences, training_batches
from tests.tiny import tiny_network

LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 3000)), min_size=1, max_size=80)


def epoch(lengths: list[int], number: int = 0, seed: int = 0, **limits: int) -> list[Batch]:
    chosen = {"crop": 400, "batch_size": 8, "batch_tokens": 1000, **limits}
    return training_batches(np.array(lengths), seed=seed, epoch=number, **chosen)


def test_grid_has_sixteen_steps_an_octave() -> None:
    assert [grid_length(length) for length in range(1, 32)] == list(range(1, 32))
    for octave in (32, 64, 128, 1024):
        steps = {grid_length(length) for length in range(octave, 2 * octave)}
        assert steps == set(range(octave, 2 * octave, octave // 16))


@given(length=st.integers(1, 10**6))
def test_grid_drops_less_than_a_sixteenth(length: int) -> None:
    assert length - length / 16 <= grid_length(length) <= length
    assert grid_length(grid_length(length)) == grid_length(length)


@given(lengths=LENGTHS, crop=st.integers(1, 500), size=st.integers(1, 9), tokens=st.integers(1, 2000))
def test_an_epoch_has_a_window_of_every_sequence(lengths: list[int], crop: int, size: int, tokens: int) -> None:
    batches = epoch(lengths, crop=crop, batch_size=size, batch_tokens=tokens)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(lengths)))
    for rows, starts, length in batches:
        assert len(rows) <= size
        assert len(rows) == 1 or len(rows) * length <= tokens
        for row, start in zip(rows, starts, strict=True):
            assert length == grid_length(min(lengths[row], crop))
            assert 0 <= start <= lengths[row] - length


@given(lengths=LENGTHS, seed=st.integers(0, 9))
def test_every_epoch_is_drawn_anew_and_again_the_same(lengths: list[int], seed: int) -> None:
    def plain(number: int) -> list[object]:
        return [(batch.rows.tolist(), batch.starts.tolist(), batch.length) for batch in epoch(lengths, number, seed)]

    assert plain(3) == plain(3)
    assert len(plain(0)) == len(plain(1))


def test_order_windows_and_company_change_by_epoch_and_seed() -> None:
    lengths = [500] * 64 + [30] * 64
    orders = {tuple(batch.rows.tolist()) for batch in epoch(lengths)}
    assert not orders & {tuple(batch.rows.tolist()) for batch in epoch(lengths, 1)}
    assert not orders & {tuple(batch.rows.tolist()) for batch in epoch(lengths, seed=1)}
    starts = Counter(int(start) for number in range(30) for batch in epoch(lengths, number) for start in batch.starts)
    assert set(starts) == set(range(101))


def test_leftovers_are_spread_over_the_batches_of_a_length() -> None:
    assert sorted(len(batch.rows) for batch in epoch([5] * 17)) == [5, 6, 6]


def test_predictions_come_in_the_order_given_whatever_the_batches() -> None:
    network = tiny_network()
    draw = np.random.default_rng(0)
    sequences = [draw.integers(1, 40, length).tolist() for length in (3, 50, 1, 7, 64, 7, 2)]
    alone = np.concatenate([network.predict([sequence]) for sequence in sequences])
    told: list[int] = []
    for batch_tokens in (1, 100, 10_000):
        told.clear()
        logits = predict_sequences(network, sequences, batch_tokens=batch_tokens, on_batch=told.append)
        assert logits == pytest.approx(alone, abs=1e-5)
        assert sum(told) == len(sequences)
        assert len(told) == {1: 7, 100: 3, 10_000: 1}[batch_tokens]
