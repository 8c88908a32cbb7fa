from typing import Any

import pytest
from pydantic import ValidationError

from models.config import GATES, ModelConfig
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cell": "transformer"}, "cell"),
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": 40.0}, "vocab_size"),
        ({"vocab_size": "40"}, "vocab_size"),
        ({"vocab_size": True}, "vocab_size"),
        ({"embedding_dim": 0}, "embedding_dim"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_layers": 5}, "num_layers"),
        ({"bidirectional": 1}, "bidirectional"),
        ({"proj_size": -1}, "proj_size"),
        ({"proj_size": 8}, "proj_size 8 must be below hidden_size 8"),
        ({"proj_size": 3, "cell": "gru"}, "proj_size is for lstm only, not gru"),
        ({"bias": "yes"}, "bias"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"pooling": ()}, "pooling"),
        ({"pooling": ("first",)}, "pooling"),
        ({"pooling": ("max", "mean", "max")}, "pooling names each kind at most once"),
        ({"labels": ()}, "labels"),
        ({"labels": ("a", "a")}, "labels must be distinct and not empty"),
        ({"labels": ("a", "")}, "labels must be distinct and not empty"),
        ({"labels": ("a", 1)}, "labels"),
        ({"labels": ("a",)}, "output softmax takes at least 2 labels"),
        ({"labels": ("a", "b", "c"), "output": "binary"}, "output binary takes 2 labels, not 3"),
        ({"output": "argmax"}, "output"),
        ({"pad_id": -1}, "pad_id"),
        ({"pad_id": 40}, "pad_id 40 must be below vocab_size 40"),
        ({"max_length": 0}, "max_length"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"attention": True}, "attention"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        tiny_config(**fields)
    first = error.value.errors()[0]
    assert message in f"{first['loc']} {first['msg']}"


@pytest.mark.parametrize("field", ["vocab_size", "embedding_dim", "hidden_size", "labels"])
def test_sizes_and_labels_have_no_default(field: str) -> None:
    fields = tiny_config().model_dump()
    del fields[field]
    with pytest.raises(ValidationError, match=field):
        ModelConfig(**fields)


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        tiny_config().hidden_size = 9  # type: ignore[misc]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cell": "gru", "num_layers": 4, "bias": False, "pooling": ("mean", "last"), "dropout": 0.5},
        {"proj_size": 3, "output": "sigmoid", "labels": ("one",), "pad_id": 39, "temperature": 1.7},
        {"output": "binary", "max_length": 1},
    ],
)
def test_json_round_trip(fields: dict[str, Any]) -> None:
    config = tiny_config(**fields)
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("fields", "state_size", "feature_size", "num_logits"),
    [
        ({"bidirectional": False}, 8, 8, 2),
        ({"bidirectional": True}, 8, 16, 2),
        ({"bidirectional": True, "pooling": ("last", "max", "mean")}, 8, 48, 2),
        ({"bidirectional": True, "proj_size": 3, "pooling": ("max", "mean")}, 3, 12, 2),
        ({"bidirectional": False, "output": "binary"}, 8, 8, 1),
        ({"bidirectional": False, "output": "sigmoid", "labels": ("a", "b", "c")}, 8, 8, 3),
        ({"bidirectional": False, "output": "sigmoid", "labels": ("a",)}, 8, 8, 1),
    ],
)
def test_derived_sizes(fields: dict[str, Any], state_size: int, feature_size: int, num_logits: int) -> None:
    config = tiny_config(**fields)
    assert (config.state_size, config.feature_size, config.num_logits) == (state_size, feature_size, num_logits)
    assert config.num_directions == (2 if config.bidirectional else 1)


def test_tensor_shapes_of_a_projected_lstm() -> None:
    config = tiny_config(num_layers=2, proj_size=3, bias=False, bidirectional=False, pooling=("max", "mean"))
    assert config.tensor_shapes() == {
        "embedding.weight": (40, 6),
        "rnn.weight_ih_l0": (32, 6),
        "rnn.weight_hh_l0": (32, 3),
        "rnn.weight_hr_l0": (3, 8),
        "rnn.weight_ih_l1": (32, 3),
        "rnn.weight_hh_l1": (32, 3),
        "rnn.weight_hr_l1": (3, 8),
        "linear.weight": (2, 6),
        "linear.bias": (2,),
    }


@pytest.mark.parametrize("cell", list(GATES))
def test_tensor_shapes_of_both_directions(cell: Any) -> None:
    shapes = tiny_config(cell=cell, num_layers=2).tensor_shapes()
    rows = GATES[cell] * 8
    assert shapes["rnn.weight_ih_l0_reverse"] == (rows, 6)
    assert shapes["rnn.weight_ih_l1_reverse"] == (rows, 16)
    assert shapes["rnn.weight_hh_l1"] == (rows, 8)
    assert shapes["rnn.bias_ih_l1_reverse"] == shapes["rnn.bias_hh_l0"] == (rows,)
    assert shapes["linear.weight"] == (2, 16)
