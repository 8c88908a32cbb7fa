"""The torch engine behind the seam."""

import time
from collections.abc import Sequence as Many
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.network import SequenceClassifier
from service.engine import BackendError, choose, packed, usable_cores
from service.engine.packed import PackedEngine
from service.sequence import Outcome, Sequence
from tests.tiny import tiny_artifact, tiny_network


def sequence(tokens: Many[int], network: SequenceClassifier) -> Sequence:
    now = time.monotonic()
    return Sequence(list(tokens), network, now + 60, now)


def run(engine: PackedEngine, budget: int, steps: int) -> list[list[Outcome]]:
    return [engine.step(budget) for _ in range(steps)]


tokens = st.lists(st.integers(1, 39), min_size=1, max_size=40)


@given(st.lists(tokens, min_size=1, max_size=12), st.integers(1, 60), st.data())
@settings(max_examples=60, deadline=None)
def test_started_sequences_end_with_the_logits_of_running_alone(
    batch: list[list[int]], budget: int, data: st.DataObject
) -> None:
    networks = [tiny_network(seed) for seed in (0, 1)]
    engine = PackedEngine()
    started = [sequence(row, data.draw(st.sampled_from(networks))) for row in batch]
    for each in started:
        engine.start(each)
    cancelled = set(data.draw(st.lists(st.sampled_from(started), unique=True)))
    for each in cancelled:
        engine.cancel(each)
    outcomes = [outcome for step in run(engine, budget, len(batch)) for outcome in step]
    assert {outcome.sequence for outcome in outcomes} == set(started) - cancelled
    assert len(outcomes) == len(started) - len(cancelled)
    for each, result in outcomes:
        assert isinstance(each.weights, SequenceClassifier)
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(result, each.weights.predict([each.token_ids])[0], atol=1e-5)
    assert engine.step(budget) == []


def test_a_step_takes_what_the_budget_covers_and_at_least_one() -> None:
    network = tiny_network()
    engine = PackedEngine()
    for length in (10, 10, 10, 50, 1):
        engine.start(sequence([3] * length, network))
    steps = run(engine, 25, 4)
    assert [[len(outcome.sequence.token_ids) for outcome in step] for step in steps] == [[10, 10], [10], [50], [1]]


def test_a_sequence_that_cannot_be_computed_fails_alone() -> None:
    network = tiny_network()
    engine = PackedEngine()
    rows = [[3, 4], [99], [5, 6, 7]]  # 99 is outside the embedding
    for row in rows:
        engine.start(sequence(row, network))
    outcomes = engine.step(100)
    assert isinstance(outcomes[1].result, IndexError)
    for number in (0, 2):
        result = outcomes[number].result
        assert not isinstance(result, Exception)
        np.testing.assert_allclose(result, network.predict([rows[number]])[0], atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_on_a_gpu_the_logits_are_those_of_the_cpu() -> None:
    artifact = tiny_artifact(num_layers=2, pooling=("last", "max", "mean", "last_output"))
    backend = choose("auto", 0)
    assert (backend.device, backend.threads) == ("cuda", 1)
    network = backend.load(artifact)
    assert isinstance(network, SequenceClassifier)
    logits = network.predict([case.token_ids for case in artifact.golden])
    np.testing.assert_allclose(logits, [case.logits for case in artifact.golden], atol=1e-4)


def test_the_choice_of_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "cuda_available", lambda: False)
    torch.set_num_threads(2)
    assert choose("auto", 1)[:3] == ("packed", "cpu", 1)
    assert torch.get_num_threads() == 1
    assert choose("auto", 3)[:3] == ("packed", "cpu", 3)
    assert choose("auto", 0).threads == usable_cores()
    with pytest.raises(BackendError, match="torch sees no GPU"):
        choose("cuda", 0)
    monkeypatch.setattr(packed, "cuda_available", lambda: True)
    assert choose("auto", 0)[:3] == ("packed", "cuda", 1)
    assert choose("cpu", 2)[:3] == ("packed", "cpu", 2)


def test_without_torch_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "service.engine.packed")
    monkeypatch.delattr("service.engine.packed")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=r"pip install 'lstm-serve\[torch\]'"):
        choose("auto", 0)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_usable_cores_are_the_affinity_cut_to_the_quota(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert usable_cores(tmp_path) == cores
