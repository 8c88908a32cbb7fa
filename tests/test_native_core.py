"""The compiled core, called directly: right on every path, the same in any company, and strict."""

import itertools
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.config import GATES, Cell, ModelConfig
from service.engine import _core
from service.engine.native import sizes_of
from tests.native_core import PATHS, PRECISIONS, Bench, core_model, random_weights, wide_config
from tests.reference import reference_logits

DONE, CANCELLED, OVERDUE = (int(ending) for ending in (_core.Ending.DONE, _core.Ending.CANCELLED, _core.Ending.OVERDUE))

TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""Of logits of order one. A bfloat16 weight or state is off by up to 2**-9 of itself, and a logit sums up dozens."""

POOLINGS = ("last", "last_output", "max", "mean")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    cell: Cell = draw(st.sampled_from(list(GATES)))
    hidden = draw(st.integers(1, 70))
    projected = cell == "lstm" and hidden > 1 and draw(st.booleans())
    return ModelConfig(
        cell=cell,
        vocab_size=40,
        embedding_dim=draw(st.integers(1, 40)),
        hidden_size=hidden,
        num_layers=draw(st.integers(1, 4)),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(1, hidden - 1)) if projected else 0,
        bias=draw(st.booleans()),
        pooling=tuple(draw(st.lists(st.sampled_from(POOLINGS), min_size=1, unique=True))),
        labels=tuple(map(str, range(draw(st.integers(2, 40))))),
    )


sequences = st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=50), min_size=1, max_size=40)


@pytest.mark.parametrize("path", PATHS)
@given(configs(), sequences, st.integers(0, 40), st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=80, deadline=None)
def test_logits_are_those_of_the_reference_and_the_same_alone(
    path: str, config: ModelConfig, rows: list[list[int]], table_rows: int, threads: int, lanes: int, seed: int
) -> None:
    weights = random_weights(config, seed)
    model = core_model(path, config, weights, table_rows=table_rows)
    with Bench(threads, lanes) as bench:
        together = bench.logits(model, rows)
    for tokens, logits in zip(rows, together, strict=True):
        expected = reference_logits(config, weights, tokens)
        tolerance = TOLERANCE[PRECISIONS[path]] * max(1, np.abs(expected).max())
        np.testing.assert_allclose(logits, expected, rtol=0, atol=tolerance)
    with Bench() as bench:
        assert [bench.logits(model, [tokens])[0] for tokens in rows] == together


@pytest.mark.parametrize("path", PATHS)
def test_logits_are_bit_identical_in_any_company(path: str) -> None:
    """Thousands of interleavings of arrivals, lengths and cancellations, over two models and any threads and lanes."""
    draw = np.random.default_rng(1)
    shapes: list[dict[str, Any]] = [
        {"hidden_size": 24, "pooling": ("max", "mean")},
        {"hidden_size": 9, "cell": "gru", "num_layers": 2, "pooling": ("last", "last_output")},
    ]
    models = []
    for number, fields in enumerate(shapes):
        config = wide_config(**fields)
        models.append(core_model(path, config, random_weights(config, number), table_rows=30))
    pool = [(draw.integers(2), draw.integers(0, 50, 1 + int(draw.exponential(30))).tolist()) for _ in range(200)]
    with Bench(1, 1) as bench:
        alone = [bench.logits(models[which], [tokens])[0] for which, tokens in pool]
    for threads, lanes in itertools.product((1, 2, 3), (1, 3, 40)):
        with Bench(threads, lanes) as bench:
            running: dict[int, int] = {}
            cancelled: set[int] = set()
            endings = {DONE: 0, CANCELLED: 0}
            for _ in range(150):
                for number in draw.integers(0, len(pool), draw.integers(1, 24)):
                    which, tokens = pool[number]
                    running[bench.start(models[which], tokens)] = int(number)
                if draw.random() < 0.3:
                    ticket = int(draw.choice(list(running)))
                    bench.engine.cancel(ticket)
                    cancelled.add(ticket)
                for result in bench.collect(int(draw.integers(0, len(running) + 1))):
                    number = running.pop(result.ticket)
                    endings[result.ending] += 1
                    if result.ending == DONE:
                        assert result.logits == alone[number]
                    else:
                        assert result.ticket in cancelled
            bench.collect(len(running))
            assert endings[DONE] > 500
            assert endings[CANCELLED] > 10


@pytest.fixture(scope="module")
def model() -> _core.Model:
    config = wide_config()
    return core_model(_core.paths()[0][0], config, random_weights(config))


def test_a_short_sequence_overtakes_a_long_one(model: _core.Model) -> None:
    with Bench(threads=1, lanes=2) as bench:
        long = bench.start(model, [3] * 1_000_000)
        short = bench.start(model, [4, 5])
        assert [result.ticket for result in bench.collect(1)] == [short]
        bench.engine.cancel(long)
        assert [(result.ticket, result.ending) for result in bench.collect(1)] == [(long, CANCELLED)]


@pytest.mark.parametrize("threads", [2, 3])
def test_short_sequences_overtake_on_any_number_of_threads(model: _core.Model, threads: int) -> None:
    """While there are lanes, whatever the long ones' directions leave to which thread."""
    with Bench(threads, lanes=8) as bench:
        long = {bench.start(model, [3] * 1_000_000) for _ in range(3)}
        short = {bench.start(model, [4] * 10) for _ in range(4)}
        assert {result.ticket for result in bench.collect(4)} == short
        for ticket in long:
            bench.engine.cancel(ticket)
        assert {result.ticket for result in bench.collect(3)} == long


def test_a_cancelled_sequence_frees_its_lane_within_a_bounded_number_of_steps(model: _core.Model) -> None:
    with Bench(threads=1, lanes=2) as bench:
        long = bench.start(model, [3] * 1_000_000)
        bench.engine.cancel(long)
        short = bench.start(model, [4] * 64)
        endings = [(result.ticket, result.ending) for result in bench.collect(2)]
    assert endings == [(long, CANCELLED), (short, DONE)]


def test_a_sequence_whose_deadline_passes_frees_its_lane(model: _core.Model) -> None:
    with Bench(threads=1, lanes=1) as bench:
        late = bench.start(model, [3] * 1_000_000, seconds=0.02)
        never = bench.start(model, [3], seconds=-1)
        other = bench.start(model, [4])
        endings = {result.ticket: result.ending for result in bench.collect(3)}
    assert endings == {late: OVERDUE, never: OVERDUE, other: DONE}


def test_a_waiting_sequence_is_cancelled_at_once(model: _core.Model) -> None:
    with Bench(threads=1, lanes=1) as bench:
        long = bench.start(model, [3] * 1_000_000)
        waiting = bench.start(model, [4])
        bench.engine.cancel(waiting)
        assert [(result.ticket, result.ending) for result in bench.collect(1)] == [(waiting, CANCELLED)]
        bench.engine.cancel(waiting)  # it has ended: nothing happens
        bench.engine.cancel(long)
        assert [result.ticket for result in bench.collect(1)] == [long]


def test_lanes_are_refilled_without_the_interpreter() -> None:
    """One lane, fifty sequences, and a Python that does nothing but hold its lock."""
    config = wide_config(hidden_size=4)
    model = core_model("portable", config, random_weights(config))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        with Bench(threads=1, lanes=1) as bench:
            tickets = [bench.start(model, [3] * 9) for _ in range(50)]
            end = time.monotonic() + 1
            while time.monotonic() < end:
                pass
            assert len(bench.engine.collect()) == len(tickets)
    finally:
        sys.setswitchinterval(interval)


def test_the_bell_rings_once_for_many_results(model: _core.Model) -> None:
    with Bench(threads=2, lanes=8) as bench:
        for _ in range(100):
            bench.start(model, [3, 4])
        results = 0
        while results < 100:
            rung = len(bench.near.recv(4096))
            found = len(bench.engine.collect())
            assert rung <= 1 + found
            results += found


@pytest.mark.parametrize(
    ("fields", "parts"),
    [
        ({"bidirectional": False}, 1),
        ({}, 2),
        ({"bidirectional": False, "num_layers": 3}, 3),
        ({"num_layers": 2, "cell": "gru"}, 4),
    ],
)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_lane_step_is_a_token_of_a_direction_of_a_layer(fields: dict[str, Any], parts: int, threads: int) -> None:
    config = wide_config(hidden_size=4, **fields)
    model = core_model("portable", config, random_weights(config))
    with Bench(threads) as bench:
        assert bench.engine.work() == (0, 0)
        bench.logits(model, [[3] * 17])
        assert bench.engine.work() == (17 * parts, 17 * parts)
        bench.logits(model, [[3]])
        assert bench.engine.work() == (18 * parts, 18 * parts)


def test_lanes_that_step_together_are_one_step() -> None:
    config = wide_config(hidden_size=4, bidirectional=False)
    model = core_model("portable", config, random_weights(config))
    with Bench(threads=1, lanes=4) as bench:
        tickets = [bench.start(model, [3] * length) for length in (1_000_000, 20, 5, 1)]
        order: list[int] = []
        while len(order) < len(tickets):
            order += [result.ticket for result in bench.collect(1)]
        assert order[-1] == tickets[0], "the others run beside the longest"
        assert bench.engine.work() == (1_000_000, 1_000_026)


def test_work_of_all_threads_is_told_while_they_run(model: _core.Model) -> None:
    with Bench(threads=3, lanes=2) as bench:
        lengths = [1 + number * 7 % 50 for number in range(300)]
        for length in lengths:
            bench.start(model, [3] * length)
        seen, ended = (0, 0), 0
        while ended < len(lengths):
            ended += len(bench.collect(1))
            work = bench.engine.work()
            assert seen <= work
            assert work[1] >= seen[1]
            seen = work
        steps, lane_steps = bench.engine.work()
    assert lane_steps == 2 * sum(lengths)
    assert lane_steps / 2 <= steps <= lane_steps, "no more lanes than there are"


def test_what_never_gets_a_lane_is_no_work(model: _core.Model) -> None:
    with Bench() as bench:
        bench.start(model, [3] * 9, seconds=-1)
        bench.collect(1)
        assert bench.engine.work() == (0, 0)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_closing_leaves_nothing_running(model: _core.Model) -> None:
    with Bench(threads=2, lanes=2) as bench:
        for _ in range(10):
            bench.start(model, [3] * 1_000_000)
        before = len(list(Path("/proc/self/task").iterdir()))
        bench.engine.close()
        assert len(list(Path("/proc/self/task").iterdir())) == before - 2
        assert bench.engine.collect() == []


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ([], "at least one token"),
        ([3, 50], "token id 50 is not from 0 to 49"),
        ([-1], "token id -1 is not from 0 to 49"),
        ([2**31 - 1], "not from 0 to 49"),
    ],
)
def test_no_token_outside_the_vocabulary_reaches_the_kernel(model: _core.Model, tokens: list[int], reason: str) -> None:
    with Bench() as bench, pytest.raises(ValueError, match=reason):
        bench.start(model, tokens)


@pytest.mark.parametrize("tokens", [[2**31], [2**70], [1.5], ["3"], None])
def test_what_is_no_token_id_is_refused(model: _core.Model, tokens: Any) -> None:
    with Bench() as bench, pytest.raises(TypeError):
        bench.start(model, tokens)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hidden_size": 0}, "sizes must be positive"),
        ({"vocab_size": -1}, "sizes must be positive"),
        ({"num_layers": 0}, "num_layers must be positive"),
        ({"num_directions": 3}, "num_directions must be 1 or 2"),
        ({"proj_size": 96}, "proj_size must be below hidden_size"),
        ({"cell": "gru", "proj_size": 3}, "proj_size is for lstm only"),
        ({"cell": "mamba"}, "cell 'mamba' is not known"),
        ({"pooling": []}, "pooling must name at least one kind"),
        ({"pooling": ["first"]}, "pooling 'first' is not known"),
        ({"hidden_size": 97}, r"rnn\.weight_ih_l0 does not have the shape"),
        ({"vocab_size": 51}, r"embedding\.weight does not have the shape"),
        ({"num_logits": 3}, r"linear\.weight does not have the shape"),
        ({"num_layers": 2}, r"there is no tensor rnn\.weight_ih_l1"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused(fields: dict[str, Any], reason: str) -> None:
    config = wide_config()
    with pytest.raises(ValueError, match=reason):
        _core.Model("portable", {**sizes_of(config), **fields}, random_weights(config), 50, 1)


@pytest.mark.parametrize("spoilt", [np.float64, np.float16, "transposed"])
def test_arrays_of_another_kind_are_refused(spoilt: Any) -> None:
    config = wide_config()
    weights: dict[str, Any] = dict(random_weights(config))
    name = "rnn.weight_hh_l0_reverse"
    weights[name] = np.asfortranarray(weights[name]) if spoilt == "transposed" else weights[name].astype(spoilt)
    with pytest.raises(ValueError, match=f"{name} must be a C-contiguous float32 array"):
        _core.Model("portable", sizes_of(config), weights, 50, 1)


@pytest.mark.parametrize(
    ("path", "table_rows", "threads", "reason"),
    [("sse9", 50, 1, "path 'sse9'"), ("portable", -1, 1, "table_rows"), ("portable", 50, 0, "threads")],
)
def test_other_arguments_are_checked(path: str, table_rows: int, threads: int, reason: str) -> None:
    config = wide_config()
    with pytest.raises(ValueError, match=reason):
        _core.Model(path, sizes_of(config), random_weights(config), table_rows, threads)


@pytest.mark.parametrize(
    ("threads", "lanes", "bell", "reason"),
    [
        (0, 1, 0, "threads and lanes must be positive"),
        (1, -1, 0, "threads and lanes must be positive"),
        (1, 2**31 - 1, 0, "lanes must be at most 65536"),
        (1, 1, -1, "bell must be a file descriptor"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(threads: int, lanes: int, bell: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        _core.Engine(threads, lanes, bell)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="needs /proc/cpuinfo")
def test_the_paths_are_those_of_the_processor() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    needs = {
        "avx512_bf16": {"avx512f", "avx512_bf16"},
        "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
        "avx2": {"avx2", "fma"},
        "portable": set(),
    }
    found = [path for path, _ in _core.paths() if path != "amx_bf16"]  # which also takes a grant of its tiles
    assert found == [path for path, needed in needs.items() if needed <= flags]
