from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from models.config import Cell, ModelConfig, Output, Pooling
from models.network import SequenceClassifier
from tests.reference import reference_logits

TOLERANCE = 1e-5
KINDS: tuple[Pooling, ...] = ("last", "last_output", "max", "mean")
CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
OUTPUTS: tuple[Output, ...] = ("softmax", "sigmoid", "binary")


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    cell = draw(st.sampled_from(CELLS))
    hidden_size = draw(st.integers(1, 16))
    output = draw(st.sampled_from(OUTPUTS))
    labels = 2 if output == "binary" else draw(st.integers(1 if output == "sigmoid" else 2, 5))
    return ModelConfig(
        cell=cell,
        vocab_size=30,
        embedding_dim=draw(st.integers(1, 12)),
        hidden_size=hidden_size,
        num_layers=draw(st.integers(1, 4)),
        bidirectional=draw(st.booleans()),
        proj_size=draw(st.integers(0, hidden_size - 1)) if cell == "lstm" else 0,
        bias=draw(st.booleans()),
        pooling=tuple(draw(st.lists(st.sampled_from(KINDS), min_size=1, unique=True))),
        labels=tuple(f"label {number}" for number in range(labels)),
        pad_id=draw(st.integers(0, 29)),
        output=output,
    )


def network_of(config: ModelConfig, seed: int) -> SequenceClassifier:
    """torch's own initial weights; a ReLU's recurrent ones halved, else it grows without bound over 600 tokens."""
    torch.manual_seed(seed)
    network = SequenceClassifier(config).eval()
    if config.cell == "rnn_relu":
        with torch.no_grad():
            for name, weight in network.rnn.named_parameters():
                if name.startswith("weight_hh"):
                    weight.mul_(0.5)
    return network


def draw_sequences(lengths: list[int], seed: int) -> list[list[int]]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 30, length).tolist() for length in lengths]


seeds = st.integers(0, 2**31 - 1)
batches = st.lists(st.integers(1, 40), max_size=5).flatmap(lambda some: st.permutations([1, 600, *some]))


@settings(max_examples=20, deadline=None)
@given(configs(), seeds, batches)
def test_logits_do_not_depend_on_padding_or_neighbours(config: ModelConfig, seed: int, lengths: list[int]) -> None:
    network = network_of(config, seed)
    sequences = draw_sequences(lengths, seed)
    together = network.predict(sequences)
    assert together.dtype == np.float32
    assert together.shape == (len(sequences), config.num_logits)
    alone = np.concatenate([network.predict([sequence]) for sequence in sequences])
    np.testing.assert_allclose(together, alone, rtol=0, atol=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(configs(), seeds, st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 3))
def test_the_content_of_the_padding_is_never_read(
    config: ModelConfig, seed: int, lengths: list[int], extra: int
) -> None:
    network = network_of(config, seed)
    draw = np.random.default_rng(seed)
    shape = (len(lengths), max(lengths) + extra)
    sequences = draw_sequences(lengths, seed)
    filled = []
    for _ in range(2):
        token_ids = draw.integers(0, 30, shape)
        for row, sequence in zip(token_ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        with torch.inference_mode():
            filled.append(network(torch.from_numpy(token_ids), torch.tensor(lengths)).numpy())
    np.testing.assert_array_equal(*filled)
    np.testing.assert_allclose(filled[0], network.predict(sequences), rtol=0, atol=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(configs(), seeds, st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_logits_are_those_of_the_formulas(config: ModelConfig, seed: int, lengths: list[int]) -> None:
    network = network_of(config, seed)
    sequences = draw_sequences(lengths, seed)
    expected = [reference_logits(config, network.weights(), sequence) for sequence in sequences]
    np.testing.assert_allclose(network.predict(sequences), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("cell", CELLS)
def test_the_formulas_hold_over_600_tokens(cell: Cell) -> None:
    config = ModelConfig(
        cell=cell,
        vocab_size=30,
        embedding_dim=7,
        hidden_size=16,
        num_layers=2,
        bidirectional=True,
        pooling=KINDS,
        labels=("a", "b", "c"),
    )
    network = network_of(config, 3)
    (sequence,) = draw_sequences([600], 5)
    expected = reference_logits(config, network.weights(), sequence)
    np.testing.assert_allclose(network.predict([sequence])[0], expected, rtol=0, atol=TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(configs(), seeds, st.integers(1, 4), st.integers(1, 25))
@example(ModelConfig(vocab_size=30, embedding_dim=4, hidden_size=4, num_layers=2, labels=("a", "b")), 0, 3, 9)
def test_the_fused_path_of_training_agrees_with_the_packed_one(
    config: ModelConfig, seed: int, rows: int, length: int
) -> None:
    """Dropout is 0, so the logits and the gradients of equal lengths are those of the packed path."""
    network = network_of(config, seed)
    token_ids = torch.tensor(draw_sequences([length + 2] * rows, seed))
    lengths = torch.full((rows,), length)
    results = []
    for training in (True, False):
        network.train(training)
        network.zero_grad()
        logits = network(token_ids, lengths)
        torch.autograd.backward(functional.binary_cross_entropy_with_logits(logits, torch.ones_like(logits)))
        results.append((logits.detach(), {name: weight.grad for name, weight in network.named_parameters()}))
    (fused, fused_gradients), (packed, packed_gradients) = results
    torch.testing.assert_close(fused, packed, rtol=0, atol=TOLERANCE)
    for name, gradient in packed_gradients.items():
        assert gradient is not None, name
        torch.testing.assert_close(fused_gradients[name], gradient, rtol=1e-4, atol=TOLERANCE, msg=name)


@pytest.mark.parametrize("lengths", [[6, 6, 6], [6, 2, 1]], ids=["fused", "packed"])
@pytest.mark.parametrize("pooling", [*((kind,) for kind in KINDS), KINDS])
@pytest.mark.parametrize("cell", CELLS)
def test_every_weight_gets_a_gradient_in_training(cell: Cell, pooling: tuple[Pooling, ...], lengths: list[int]) -> None:
    size: dict[str, Any] = {"vocab_size": 30, "embedding_dim": 5, "hidden_size": 6, "labels": ("a", "b", "c")}
    network = network_of(ModelConfig(cell=cell, bidirectional=True, num_layers=2, pooling=pooling, **size), 0).train()
    sequences = draw_sequences(lengths, 1)
    token_ids = torch.tensor([[*sequence, *[0] * (6 - len(sequence))] for sequence in sequences])
    torch.autograd.backward(network(token_ids, torch.tensor(lengths)).square().sum())
    # at the last token the reverse direction has no earlier state
    unused = {"rnn.weight_hh_l1_reverse"} if pooling == ("last_output",) else set()
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad.abs().max() > 0) == (name not in unused), name
    assert network.embedding.weight.grad is not None
    read = {token for sequence in sequences for token in sequence}
    assert set(network.embedding.weight.grad.abs().sum(dim=1).nonzero().flatten().tolist()) <= read


def test_dropout_acts_in_training_only() -> None:
    config = ModelConfig(vocab_size=30, embedding_dim=8, hidden_size=8, num_layers=2, dropout=0.5, labels=("a", "b"))
    network = network_of(config, 0)
    token_ids, lengths = torch.tensor(draw_sequences([9, 9], 0)), torch.tensor([9, 9])
    assert torch.equal(network(token_ids, lengths), network(token_ids, lengths))
    network.train()
    assert not torch.equal(network(token_ids, lengths), network(token_ids, lengths))


@settings(max_examples=40, deadline=None)
@given(configs(), seeds)
def test_names_and_shapes_are_those_of_the_configuration(config: ModelConfig, seed: int) -> None:
    network = SequenceClassifier(config)
    shapes = {name: tuple(weight.shape) for name, weight in network.state_dict().items()}
    assert list(shapes.items()) == list(config.tensor_shapes().items())


@settings(max_examples=20, deadline=None)
@given(configs(), seeds)
def test_weights_round_trip(config: ModelConfig, seed: int) -> None:
    network = network_of(config, seed)
    copy = SequenceClassifier.from_weights(config, network.weights())
    assert not copy.training
    assert not any(weight.requires_grad for weight in copy.parameters())
    sequences = draw_sequences([3, 1], seed)
    np.testing.assert_array_equal(copy.predict(sequences), network.predict(sequences))


def test_weights_are_a_copy() -> None:
    network = network_of(ModelConfig(vocab_size=30, embedding_dim=4, hidden_size=4, labels=("a", "b")), 0)
    weights = network.weights()
    weights["linear.bias"] += 1
    assert not np.array_equal(weights["linear.bias"], network.weights()["linear.bias"])


def test_weights_of_another_configuration_are_refused() -> None:
    network = network_of(ModelConfig(vocab_size=30, embedding_dim=4, hidden_size=4, labels=("a", "b")), 0)
    wider = network.config.model_copy(update={"hidden_size": 5})
    with pytest.raises(RuntimeError, match="size mismatch"):
        SequenceClassifier.from_weights(wider, network.weights())
