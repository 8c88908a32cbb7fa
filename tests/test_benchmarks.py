"""The benchmarks' parts: statistics, lengths, other engines' answers, the baseline, the load generator, the page."""

import asyncio
import contextlib
import importlib
import itertools
import json
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from starlette.testclient import TestClient

from benchmarks import client, figures, report, stream
from benchmarks.agreement import Agreement
from benchmarks.engines import Contender, ours
from benchmarks.figures import Spread
from benchmarks.flood import Flood
from benchmarks.lengths import LONG, draw_sequences, mixed, reviews, uniform
from benchmarks.model import CONFIG, flop, make_artifact, recurrent_flop
from benchmarks.onnx_lstm import OnnxRuntime, export, quantise
from benchmarks.padded import Padded
from models.artifact import write_artifact
from models.config import ModelConfig
from models.network import SequenceClassifier

SMALL = ModelConfig(vocab_size=50, embedding_dim=5, hidden_size=7, bidirectional=True, labels=("a", "b", "c"))
SEQUENCES = [[4, 2, 9], [7], [1, 2, 3, 4, 5, 6, 7, 8], [11, 12]]

Predict = Callable[[Sequence[Sequence[int]]], npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def network() -> SequenceClassifier:
    return SequenceClassifier.from_weights(SMALL, make_artifact(SMALL).weights)


def alone(network: SequenceClassifier, sequences: Sequence[Sequence[int]] = SEQUENCES) -> npt.NDArray[np.float32]:
    return np.vstack([network.predict([sequence]) for sequence in sequences])


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5, 1, 4, 2, 3], 0.5, 3), (range(1, 101), 0.95, 95), (range(1, 101), 0.99, 99), ([7], 0.99, 7), ([1, 2], 0.5, 1)],
)
def test_a_quantile_is_the_least_value_that_the_share_does_not_exceed(
    values: Sequence[float], share: float, expected: float
) -> None:
    assert figures.quantile(values, share) == expected


def test_a_quantile_of_nothing_names_the_remedy() -> None:
    with pytest.raises(ValueError, match="--seconds"):
        figures.quantile([], 0.5)


def test_a_spread_is_the_median_between_the_least_and_the_greatest() -> None:
    assert Spread.of([3, 1, 1234, 2]) == (2.5, 1, 1234)
    assert str(Spread.of([3, 1, 1234, 2])) == "2.5 (1 to 1,234)"
    assert str(Spread.of([0.01234])) == "0.0123"


def test_ratios_are_taken_within_a_round() -> None:
    assert figures.ratios([10, 40], [5, 10]) == [2, 4]


def test_lengths_are_as_told() -> None:
    draw = np.random.default_rng(1)
    of_reviews, flat, mix = (lengths(draw, 10_000) for lengths in (reviews, uniform, mixed))
    assert (of_reviews.min(), of_reviews.max()) == (11, 400)
    assert np.median(of_reviews) == pytest.approx(201, rel=0.03)
    assert np.mean(of_reviews == 400) == pytest.approx(0.177, abs=0.02)
    assert (flat.min(), flat.max()) == (1, 400)
    assert flat.mean() == pytest.approx(200.5, rel=0.02)
    long = mix >= LONG
    assert long.sum() == 1000
    assert 1000 <= mix[long].min() < 1020
    assert 1980 < mix[long].max() <= 2000
    assert (mix[~long].min(), mix[~long].max()) == (10, 20)


def test_sequences_are_the_same_ones_each_time_and_hold_no_pad() -> None:
    sequences = draw_sequences(SMALL, uniform, 5)
    assert sequences == draw_sequences(SMALL, uniform, 5)
    assert {token for sequence in sequences for token in sequence} == set(range(1, 50))


def test_a_sequence_of_200_tokens_costs_315_mflop_of_which_two_thirds_are_recurrent() -> None:
    assert flop(CONFIG, 200, 1) == 2 * 200 * 2 * 1024 * (128 + 256) + 2 * 2 * 512
    assert recurrent_flop(CONFIG, 200) == 2 * 200 * 2 * 1024 * 256


def test_the_onnx_graph_answers_as_torch(network: SequenceClassifier) -> None:
    session = OnnxRuntime(export(network), 1)
    np.testing.assert_allclose(session.predict(SEQUENCES), alone(network), atol=1e-5)


def test_quantised_weights_answer_nearly_as_torch_but_not_quite(network: SequenceClassifier) -> None:
    error = np.abs(OnnxRuntime(quantise(export(network)), 1).predict(SEQUENCES) - alone(network)).max()
    assert 1e-4 < error < 0.3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_padded_batches_answer_as_torch(network: SequenceClassifier, dtype: torch.dtype, tolerance: float) -> None:
    np.testing.assert_allclose(Padded(network, dtype).predict(SEQUENCES), alone(network), atol=tolerance)


def test_a_wrong_answer_ends_the_benchmark() -> None:
    reference = np.array([[1, 2], [30, 4]], np.float32)
    right = Agreement.of([(1, [30.003, 4.0]), (0, [1.0, 2.0])], reference)
    assert right.error == pytest.approx(1e-4, rel=0.05)
    assert right.same_label == 1
    Agreement(0.9e-4, 1.0).check("it", "float32")
    with pytest.raises(RuntimeError, match=r"it is wrong: logits off by 2\.0e-01, 100\.0% same labels"):
        Agreement.of([(0, [1.0, 2.4])], reference).check("it", "float32")
    with pytest.raises(RuntimeError, match=r"50\.0% same labels"):
        Agreement.of([(0, [2.02, 2.0]), (1, [30.0, 4.0])], np.array([[2, 2.01], [30, 4]], np.float32)).check(
            "it", "bfloat16"
        )


def test_batches_run_over_the_sequences_in_order() -> None:
    taken: list[list[int]] = []

    def predict(batch: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        taken.append([len(sequence) for sequence in batch])
        return np.array([[sequence[0]] for sequence in batch], np.float32)

    answers = stream.take(stream.batches(predict)(SEQUENCES, 3), 8)
    assert taken == [[3, 1, 8], [2, 3, 1], [8, 2, 3]]
    assert answers[:4] == [(0, [4]), (1, [7]), (2, [1]), (3, [11])]


def test_a_rate_counts_the_tokens_that_were_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(sequences: Sequence[list[int]], concurrent: int) -> Generator[list[stream.Answer], None, None]:
        for number in itertools.cycle([0, 1, 2, 3]):
            yield [(number, [0.0])]

    clock = iter([10.0, 10.0, 12.0])  # when it begins, at the first look, after a pass
    monkeypatch.setattr("benchmarks.stream.time.perf_counter", lambda: next(clock))
    rate, answers = stream.timed(run, SEQUENCES, 1, seconds=2)
    assert rate == 4 / 2
    assert [number for number, _ in answers] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_our_engine_answers_as_torch_with_any_number_under_way(network: SequenceClassifier) -> None:
    sequences = draw_sequences(SMALL, uniform, 6)
    with contextlib.ExitStack() as engines:
        contenders: list[Contender] = list(ours(make_artifact(SMALL), engines))
        assert "float32" in [contender.precision for contender in contenders]
        for contender, concurrent in itertools.product(contenders, (1, 4, 9)):
            _, answers = stream.timed(contender.run, sequences, concurrent, 0)
            assert {number for number, _ in answers} == set(range(6))
            Agreement.of(answers, alone(network, sequences)).check(contender.name, contender.precision)


@pytest.fixture
def baseline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module; it reads its model when it is imported."""
    write_artifact(tmp_path / "1", make_artifact(SMALL))
    monkeypatch.setenv("VERSION", str(tmp_path / "1"))
    monkeypatch.delitem(sys.modules, "benchmarks.baseline", raising=False)
    return importlib.import_module("benchmarks.baseline")


def test_the_baseline_answers_as_torch_and_refuses_what_is_wrong(baseline: Any, network: SequenceClassifier) -> None:
    with TestClient(baseline.app) as http:
        body = client.predict(SEQUENCES, SMALL.pad_id).partition(b"\r\n\r\n")[2]
        reply = http.post("/predict", content=body, headers={"Content-Type": "application/json"})
        np.testing.assert_allclose(reply.json()["logits"], alone(network), atol=1e-5)
        for wrong in ({"token_ids": [[50]], "lengths": [1]}, {"token_ids": [[1]], "lengths": [2]}):
            assert http.post("/predict", json=wrong).status_code == 422
        assert http.get("/livez").status_code == 200


async def _listen(answer: Callable[[bytes], bytes]) -> tuple[asyncio.Server, str]:
    """A server that gives `answer` of each request's body; nothing, and the end, where that is empty."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n") if not reader.at_eof() else b"":
            body = await reader.readexactly(int(head.partition(b"Content-Length: ")[2] or 0))
            reply = answer(body)
            if not reply:
                break
            for part in (b"HTTP/1.1 200 OK\r\ncontent-le", b"ngth: %d\r\n\r\n" % len(reply), reply[:1], reply[1:]):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        writer.close()

    async def tolerant(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(tolerant, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


REQUESTS = [client.post("/predict", b"one"), client.post("/predict", b"two"), client.post("/predict", b"three")]


def test_a_closed_loop_takes_the_requests_in_turn_and_reads_replies_in_any_pieces() -> None:
    async def load() -> list[client.Reply]:
        server, url = await _listen(bytes.upper)
        async with server:
            return await client.closed_loop(url, REQUESTS, 4, 0.1)

    replies = client.run(load())
    assert {reply.body for reply in replies} == {b"ONE", b"TWO", b"THREE"}
    assert all(reply.body == (b"ONE", b"TWO", b"THREE")[reply.number] for reply in replies)
    counts = [sum(reply.number == number for reply in replies) for number in range(3)]
    assert max(counts) - min(counts) <= 1
    assert all(reply.status == 200 and reply.due == reply.sent <= reply.finished for reply in replies)


def test_an_open_loop_sends_every_arrival_and_counts_from_when_it_was_due() -> None:
    async def load() -> list[client.Reply]:
        server, url = await _listen(bytes.upper)
        async with server:
            return await client.open_loop(url, REQUESTS, [0.0, 0.0, 0.0, 0.01, 0.02], connections=1)

    replies = client.run(load())
    assert [reply.number for reply in replies] == [0, 1, 2, 0, 1]
    start = replies[0].due
    assert [reply.due - start for reply in replies] == pytest.approx([0, 0, 0, 0.01, 0.02])
    assert all(reply.due <= reply.sent <= reply.finished for reply in replies)
    assert replies[2].sent >= replies[1].finished  # it waited for the one connection


def test_a_flood_sends_every_arrival_over_the_connection_used_last() -> None:
    told: list[None] = []

    def flood(url: str) -> list[client.Reply]:
        with Flood(url, 3) as flood:
            return flood.run(REQUESTS, [0.0, 0.0, 0.0, 0.0, 0.05], lambda: told.append(None))

    async def load() -> list[client.Reply]:
        server, url = await _listen(lambda body: body.upper() or b"live")
        async with server:
            return await asyncio.to_thread(flood, url)

    replies = sorted(client.run(load()), key=lambda reply: reply.due)
    assert told == [None]
    assert sorted(reply.number for reply in replies[:4]) == [0, 0, 1, 2]
    assert [reply.due - replies[0].due for reply in replies] == pytest.approx([0, 0, 0, 0, 0.05])
    assert all(reply.body == (b"ONE", b"TWO", b"THREE")[reply.number] for reply in replies)
    assert all(reply.status == 200 and reply.due <= reply.sent <= reply.finished for reply in replies)
    firsts = sorted(replies[:4], key=lambda reply: reply.sent)
    assert firsts[3].sent >= min(reply.finished for reply in firsts[:3])  # it waited for one of three


def test_a_flood_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.flood.PATIENCE", 0.2)

    def flood(url: str) -> list[client.Reply]:
        with Flood(url, 1) as flood:
            return flood.run(REQUESTS, [0.0], lambda: None)

    async def load() -> list[client.Reply]:
        held = asyncio.Event()

        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await held.wait()
            writer.close()

        server = await asyncio.start_server(hold, "127.0.0.1", 0)
        async with server:
            try:
                return await asyncio.to_thread(flood, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            finally:
                held.set()

    with pytest.raises(TimeoutError, match=r"no reply for 0\.2 s"):
        client.run(load())


@pytest.mark.parametrize("loop", ["closed", "open", "flood"])
def test_a_server_that_hangs_up_ends_the_load(loop: str) -> None:
    def flood(url: str) -> list[client.Reply]:
        with Flood(url, 1) as flood:
            return flood.run(REQUESTS, [0.0], lambda: None)

    async def load() -> object:
        server, url = await _listen(lambda body: b"" if body or loop != "flood" else b"ok")
        async with server:
            if loop == "flood":
                return await asyncio.to_thread(flood, url)
            if loop == "closed":
                return await client.closed_loop(url, REQUESTS, 1, 5)
            return await client.open_loop(url, REQUESTS, [0.0], connections=1)

    with pytest.raises(ConnectionError, match="closed a connection"):
        client.run(load())


def test_a_request_is_what_the_service_takes() -> None:
    body = json.loads(client.predict([[5, 6], [7]], 0).partition(b"\r\n\r\n")[2])
    assert body == {"token_ids": [[5, 6], [7, 0]], "lengths": [2, 1]}


def test_the_page_sets_our_figures_against_the_others() -> None:
    names = ["torch packed", "torch oneDNN bfloat16", "lstm-serve native bfloat16"]
    rates = {"32": dict(zip(names, ([100, 100], [200, 400], [800, 800]), strict=True))}
    engines = {
        "machine": {"processor": "a processor"},
        "precisions": dict(zip(names, ("float32", "bfloat16", "bfloat16"), strict=True)),
        "agreements": dict.fromkeys(names, (0.001, 1.0)),
        "peaks": {"float32": [1e11, 1e11], "bfloat16": [1e12, 1e12]},
        "tokens": {"reviews": 200},
        "rates": {"reviews": rates | {"64": rates["32"]}},
    }
    service = {
        "in_process": [200, 200],
        "figures": {
            "baseline": {"32 connections": {"requests/s": [150, 150]}},
            "lstm-serve": {"32 connections": {"requests/s": [1500, 1650]}, "start": {"first right reply, s": [1, 2]}},
        },
    }
    page = report.page(engines, service)
    assert "| processor | a processor |" in page
    assert "| lstm-serve native bfloat16 to the best other (target with 32: 4) | 3 (2 to 4) | 3 (2 to 4) |" in page
    assert "| torch packed | 31.5 (21%) | 31.5 (21%) | 1.0e-03 | 100.0% |" in page
    assert "| 32 connections | requests/s | 150 | 1,575 (1,500 to 1,650) | 10.5 (10.0 to 11.0) | at least 10 |" in page
    assert "| start | first right reply, s |  | 1.5 (1 to 2) |  | at most 0.8 s |" in page
    assert "does 0.75 times" in page
